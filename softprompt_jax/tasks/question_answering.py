"""SQuAD v1.1 and the out-of-domain sets of MRQA 2019, as T5 casts SQuAD.

Inputs are "question: … context: …" with a space on either side of every punctuation mark, and so
are the answers, both those to train on and those that predictions are compared with. T5 has no
task word here, so there is no prefix.

References:
    Lester et al. 2021, section 5 and table 1: trained on SQuAD, evaluated on MRQA; T5 (Raffel et
    al. 2020), appendix D.
"""

import re

from softprompt_jax.tasks.references import Reference
from softprompt_jax.tasks.task import Example
from softprompt_jax.tasks.tfds_source import register_tfds_task

METRICS = ("squad_f1", "squad_em")
OUT_OF_DOMAIN = ("textbook_qa", "bio_asq", "race", "relation_extraction", "duo_rc", "drop")

# As RE2, T5's regular expressions, means [[:punct:]] and \s: ASCII only. Python's \s would also
# take no-break spaces and the like.
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_SPACES = re.compile(r"[\t\n\f\r ]+")


def pad_punctuation(text: str) -> str:
    """Puts spaces around ASCII punctuation and makes one space of each run of white space.

    A text that ends in punctuation ends in a space, as T5's does.
    """
    return _SPACES.sub(" ", _PUNCTUATION.sub(r" \1 ", text))


def _question_text(question: str, context: str) -> str:
    text = f"question: {pad_punctuation(question)} context: {pad_punctuation(context)}"
    return _SPACES.sub(" ", text)


def squad_pairs(example: Example) -> list[tuple[str, str]]:
    """The training row of a SQuAD question; its first answer is the target."""
    text = _question_text(example["question"], example["context"])
    return [(text, pad_punctuation(example["answers"]["text"][0]))]


def squad_questions(example: Example) -> list[tuple[str, Reference]]:
    """The evaluation row of a SQuAD question, with all of its answers."""
    text = _question_text(example["question"], example["context"])
    return [(text, Reference(tuple(map(pad_punctuation, example["answers"]["text"]))))]


def mrqa_pairs(example: Example) -> list[tuple[str, str]]:
    """The row of an MRQA question; the target is the first answer found in the context.

    Unlike SQuAD's, the texts first lose all of Unicode's white space, as in the paper's own
    conversion of these sets. Marks such as [TLE] and [PAR] stay, and are padded like the rest.

    References:
        google-research/prompt-tuning, `mrqa_to_tsv.py` and `preprocess_tsv_to_qa`. The quotation
        marks that its table file doubles are not doubled here.
    """
    return [(_mrqa_text(example), _clean(example["detected_answers"]["text"][0]))]


def mrqa_questions(example: Example) -> list[tuple[str, Reference]]:
    """The evaluation row of an MRQA question, with all of its answers."""
    return [(_mrqa_text(example), Reference(tuple(map(_clean, example["answers"]))))]


def _mrqa_text(example: Example) -> str:
    question, context = (re.sub(r"\s+", " ", example[name]) for name in ("question", "context"))
    return _question_text(question, context)


def _clean(answer: str) -> str:
    return pad_punctuation(re.sub(r"\s+", " ", answer))


register_tfds_task(
    "squad",
    builder="squad/v1.1",
    pairs=squad_pairs,
    questions=squad_questions,
    metrics=METRICS,
    prefix="",
)
for _name in OUT_OF_DOMAIN:
    # They are MRQA's development files, and TFDS calls them "test" since nothing is trained on
    # their domains.
    register_tfds_task(
        f"mrqa/{_name}",
        pairs=mrqa_pairs,
        questions=mrqa_questions,
        splits={"validation": "test"},
        metrics=METRICS,
        prefix="",
    )
