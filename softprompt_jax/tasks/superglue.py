"""The eight tasks of SuperGLUE as T5 casts them, and the data set that T5 adds to WSC.

Most inputs are their fields by name: "hypothesis: … premise: …". T5 puts the task's name in front,
which here is the prefix that `task_prefix` adds; the paper leaves it out. The test splits have no
public labels and are left out.

References:
    Lester et al. 2021, appendix A.3; T5 (Raffel et al. 2020), section 2.4 and appendix D;
    SuperGLUE (Wang et al. 2019), section 3, for the metrics.
"""

import re
from collections.abc import Callable

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.glue import ENTAILMENT, UNLABELLED, Pairs, classification_pairs
from softprompt_jax.tasks.metrics import Reference
from softprompt_jax.tasks.task import Example
from softprompt_jax.tasks.tfds_source import register_tfds_task

VERSION = "1.0.2"  # of TFDS's super_glue: T5's and the paper's
BOOLEAN = ("False", "True")

AVERAGED_METRICS = {
    "boolq": ("accuracy",),
    "cb": ("macro_f1", "accuracy"),
    "copa": ("accuracy",),
    "multirc": ("multirc_f1a", "multirc_em"),
    "record": ("record_f1", "record_em"),
    "rte": ("accuracy",),
    "wic": ("accuracy",),
    "wsc": ("wsc_accuracy",),
}
"""The metrics of each task, whose mean is the task's part of the SuperGLUE score."""

RECORD_WORDS = ("commonsense", "reasoning", "reading", "comprehension")
WSC_WORDS = ("commonsense", "pronoun", "resolution")
"""For init="class_labels", where there are no labels (paper section 3.2)."""

# Two texts of WSC whose index does not point at the pronoun, and how T5 reads them: the pronoun
# is where the X is.
_WSC_MENDED = {
    "The boy continued to whip the pony , and eventually the pony threw him over. John laughed out "
    'quite loud. "Good for him," he said. ': (
        "The boy continued to whip the pony , and eventually the pony threw him over. John laughed "
        'out quite loud. "Good for X ," he said.'
    ),
    "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the magic "
    "pebble in an iron safe . Some day they might want to use it , but really for now, what more "
    "could they wish for?": (
        "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the "
        "magic pebble in an iron safe . Some day they might want to use X , but really for now, "
        "what more could they wish for?"
    ),
}

_multirc_fields = classification_pairs(("question", "answer", "paragraph"), BOOLEAN)


def multirc_pairs(example: Example) -> list[tuple[str, str]]:
    """The cast of MultiRC: is the answer one of the question's? Without the paragraph's HTML."""
    [(text, target)] = _multirc_fields(example)
    return [(re.sub("</?b>", "", text.replace("<br>", " ")), target)]


def multirc_questions(example: Example) -> list[tuple[str, Reference]]:
    """The rows of `multirc_pairs`, grouped by their question."""
    [(text, target)] = multirc_pairs(example)
    group = (example["idx"]["paragraph"], example["idx"]["question"])
    return [(text, Reference((target,), group))]


def record_pairs(example: Example) -> list[tuple[str, str]]:
    """The cast of ReCoRD: one row for each answer, all with the same input."""
    return [(_record_text(example), answer) for answer in _record_answers(example)]


def record_questions(example: Example) -> list[tuple[str, Reference]]:
    """One row for all answers: T5 has one for each, but scores the first of a (passage, query)."""
    group = (example["idx"]["passage"], example["idx"]["query"])
    return [(_record_text(example), Reference(_record_answers(example), group))]


def _record_answers(example: Example) -> tuple[str, ...]:
    return tuple(example["answers"]) or (UNLABELLED,)


def _record_text(example: Example) -> str:
    # Each @highlight starts a summary sentence, and the sentence before it may lack its full stop.
    passage = re.sub(r"""([.?!"'])\n@highlight\n""", r"\1 ", example["passage"])
    passage = passage.replace("\n@highlight\n", ". ")
    entities = ", ".join(example["entities"])
    return f"query: {example['query']} entities: {entities} passage: {passage}"


def wsc_pairs(example: Example) -> list[tuple[str, str]]:
    """The cast of WSC to train on: what does the pronoun in *asterisks* stand for?

    Rows whose noun is not what the pronoun stands for have no right answer, and are left out.

    Raises:
        UserError: the example's pronoun is not at its index.
    """
    return [(_wsc_text(example), example["span1_text"])] if example["label"] == 1 else []


def wsc_questions(example: Example) -> list[tuple[str, Reference]]:
    """All rows of WSC: is the prediction the example's noun exactly where the label says so?

    Raises:
        UserError: the example's pronoun is not at its index.
    """
    reference = Reference((example["span1_text"],), holds=example["label"] == 1)
    return [(_wsc_text(example), reference)]


def _wsc_text(example: Example) -> str:
    text, pronoun, at = example["text"], example["span2_text"], example["span2_index"]
    marked = _WSC_MENDED.get(text)
    if marked is None:
        words = text.split(" ")
        if not 0 < at < len(words) or words[at] != pronoun:
            raise UserError(
                f"The WSC text {text[:60]!r} does not have its pronoun {pronoun!r} as word {at} "
                "(the first being 0); use the data of super_glue/wsc.fixed, or correct "
                "span2_index."
            )
        marked = " ".join([*words[:at], "X", " ".join(words[at + 1 :])])
    # Every lone X, as in T5, should the text have another.
    return marked.replace(" X ", f" *{pronoun}* ")


def pronoun_resolution_pairs(example: Example) -> list[tuple[str, str]]:
    """The cast of Definite Pronoun Resolution: as WSC, of the pronoun's first occurrence."""
    pronoun = re.escape(example["pronoun"])
    text = re.sub(rf" ({pronoun})([ .,])", r" *\1*\2", example["sentence"], count=1)
    return [(text, example["candidates"][example["label"]])]


def _register(
    config: str,
    pairs: Pairs,
    labels: tuple[str, ...] = (),
    *,
    questions: Callable[[Example], list[tuple[str, Reference]]] | None = None,
    init_words: tuple[str, ...] = (),
) -> None:
    register_tfds_task(
        f"super_glue/{config}",
        builder=f"super_glue/{config}:{VERSION}",
        pairs=pairs,
        questions=questions,
        labels=labels,
        init_words=init_words,
        metrics=AVERAGED_METRICS[config],
        prefix=config,
    )


def _register_fields(config: str, fields: tuple[str, ...], labels: tuple[str, ...]) -> None:
    _register(config, classification_pairs(fields, labels), labels)


_register_fields("boolq", ("passage", "question"), BOOLEAN)
_register_fields("cb", ("hypothesis", "premise"), ("entailment", "contradiction", "neutral"))
_register_fields("copa", ("choice1", "choice2", "premise", "question"), ("choice1", "choice2"))
_register_fields("rte", ("hypothesis", "premise"), ENTAILMENT)
_register_fields("wic", ("sentence1", "sentence2", "word"), BOOLEAN)
_register("multirc", multirc_pairs, BOOLEAN, questions=multirc_questions)
_register("record", record_pairs, questions=record_questions, init_words=RECORD_WORDS)
# T5 reads the config whose spans are mended, and so does the task under its plain name.
for _config in ("wsc", "wsc.fixed"):
    register_tfds_task(
        f"super_glue/{_config}",
        builder=f"super_glue/wsc.fixed:{VERSION}",
        pairs=wsc_pairs,
        questions=wsc_questions,
        init_words=WSC_WORDS,
        metrics=AVERAGED_METRICS["wsc"],
        prefix="wsc:",
    )
register_tfds_task(
    "definite_pronoun_resolution",
    builder="definite_pronoun_resolution:1.1.0",
    pairs=pronoun_resolution_pairs,
    splits={"train": "train", "validation": "test"},  # it has no other, and both have labels
    init_words=WSC_WORDS,
    prefix="wsc:",  # T5 mixes it with WSC as more of the same
)
