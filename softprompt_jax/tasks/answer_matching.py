"""When a generated answer counts as the right one: the rules of SQuAD and of T5's WSC."""

import re
import string
from collections import Counter

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

# Words that say nothing about whom a noun phrase means; those of T5's WSC rule.
DETERMINERS = {
    *("a", "an", "the", "this", "that", "these", "those", "which", "whose"),
    *("my", "your", "his", "her", "our", "their"),
    *("each", "every", "few", "many", "much", "some"),
}


def squad_normalize(text: str) -> str:
    """Text as SQuAD compares it: lower case, no ASCII punctuation, no articles, single spaces.

    References:
        Rajpurkar et al. 2016, section 6.1, and the evaluation script of SQuAD v1.1, which settles
        the order: punctuation goes before articles, so "a-b" is the word "ab".
    """
    words = _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION))
    return " ".join(words.split())


def squad_word_f1(prediction: str, answer: str) -> float:
    """F1 of the words that two normalised texts share, repeated words counted, in [0, 1].

    Two texts without words share none: 0, as in SQuAD v1.1 (version 2 gives 1).
    """
    predicted, true = prediction.split(), answer.split()
    shared = (Counter(predicted) & Counter(true)).total()
    return 2 * shared / (len(predicted) + len(true)) if shared else 0.0


def names_referent(prediction: str, referent: str) -> bool | None:
    """Whether a prediction means the noun phrase that a WSC pronoun is said to stand for.

    Upper case and determiners are ignored. It does where all its words are among the referent's,
    or the other way round ("bunny", "the fuzzy bunny"); but not where only one of the two has an
    apostrophe ("Bob", "Bob's hat").

    Returns:
        None where nothing is left of the prediction, so that it says neither yes nor no.

    References:
        Raffel et al. 2020, section 2.4 (WSC as free text), with the rule of the T5 library.
    """
    predicted, true = _content_words(prediction), _content_words(referent)
    if predicted == {""}:
        return None
    if _has_apostrophe(predicted) != _has_apostrophe(true):
        return False
    return predicted <= true or true <= predicted


def _content_words(text: str) -> set[str]:
    # As T5: every single space parts two words, which may be empty, and no words are an empty one.
    return set(text.strip().lower().split(" ")) - DETERMINERS or {""}


def _has_apostrophe(words: set[str]) -> bool:
    return any("'" in word for word in words)
