"""SQuAD's and MRQA's casts against texts written by hand, which T5's own code makes as well.

The rows of `SQUAD` were put through `t5.data.preprocessors.squad` of the t5 package, version 0.9.4
(with tensorflow-cpu 2.21): the same inputs, targets and answers, character for character. Those of
`MRQA` likewise through that package's `_pad_punctuation` and `_string_join`, composed as
google-research/prompt-tuning's `mrqa_to_tsv.py` and `preprocess_tsv_to_qa` do.
"""

import pytest

from softprompt_jax.tasks import Reference, get_task
from softprompt_jax.tasks.question_answering import OUT_OF_DOMAIN, pad_punctuation


def squad(question, context, *answers):
    starts = [max(context.find(answer), 0) for answer in answers]
    return {
        "id": "1",
        "title": "T",
        "context": context,
        "question": question,
        "answers": {"text": list(answers), "answer_start": starts},
    }


# (raw example, input, answers); the first answer is the target.
SQUAD = [
    (
        squad("Which team won?", "The Denver Broncos (AFC) won 24—10.", "Denver Broncos", "Denver"),
        "question: Which team won ? context: The Denver Broncos ( AFC ) won 24—10 . ",
        ("Denver Broncos", "Denver"),
    ),
    (
        squad("How much?", "It cost US$4.5 million, i.e. 1,000x.", "US$4.5 million", "$4.5"),
        "question: How much ? context: It cost US $ 4 . 5 million , i . e . 1 , 000x . ",
        ("US $ 4 . 5 million", " $ 4 . 5"),
    ),
    (
        squad("Who's he?", "He isn't \"Bob\" -- it's Al\u2019s_dad", "Al\u2019s_dad"),
        "question: Who ' s he ? context: He isn ' t \" Bob \" - - it ' s Al\u2019s _ dad",
        ("Al\u2019s _ dad",),
    ),
    (
        squad("  Two\n lines\t? ", " a\r\nb \n\n c ", "b \n\n c"),
        "question: Two lines ? context: a b c ",
        ("b c",),
    ),
    (
        # Only ASCII counts: no-break space, vertical tab, Spanish, Greek and Chinese marks stay.
        squad("\u00bfQu\u00e9?", "a\u00a0b \u000b c\u3002 d\u2026 e\u037e", "U.S.", "c\u3002"),
        "question: \u00bfQu\u00e9 ? context: a\u00a0b \u000b c\u3002 d\u2026 e\u037e",
        ("U . S . ", "c\u3002"),
    ),
    (
        squad("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "x^2", "~"),
        "question: ! \" # $ % & ' ( ) * + , - . / : ; < = > ? @ [ \\ ] ^ _ ` { | } ~ "
        "context: x ^ 2",
        (" ~ ",),
    ),
]


def mrqa(question, context, detected, answers):
    return {
        "subset": "S",
        "qid": "1",
        "context": context,
        "question": question,
        "detected_answers": {"text": list(detected)},
        "answers": list(answers),
    }


# (raw example, input, target, answers).
MRQA = [
    (
        mrqa("What is it?", "[PAR] [TLE] Cells [SEP] A cell is small.", ["small"], ["small", "s."]),
        "question: What is it ? context: [ PAR ] [ TLE ] Cells [ SEP ] A cell is small . ",
        "small",
        ("small", "s . "),
    ),
    (
        # The answer that was found in the context is the target, though the list has another.
        mrqa("Who?", "JOHN SMITH went.", ["JOHN SMITH"], ["John Smith"]),
        "question: Who ? context: JOHN SMITH went . ",
        "JOHN SMITH",
        ("John Smith",),
    ),
    (
        # All of Unicode's white space becomes a space here.
        mrqa("a\u00a0b\u2003?", "x\u000by\u2028z\n\n", ["x\u000by"], ["x\u00a0y", "z"]),
        "question: a b ? context: x y z ",
        "x y",
        ("x y", "z"),
    ),
    (
        mrqa("How many points, in %?", "24-7 (29.4%)", ["29.4%"], ["29.4%", "29.4"]),
        "question: How many points , in % ? context: 24 - 7 ( 29 . 4 % ) ",
        "29 . 4 % ",
        ("29 . 4 % ", "29 . 4"),
    ),
    (
        mrqa('He said "no"?', '<P> "No", he\'s said. </P>', ['"No"'], ['"No"']),
        'question: He said " no " ? context: < P > " No " , he \' s said . < / P > ',
        ' " No " ',
        (' " No " ',),
    ),
]


@pytest.mark.parametrize(("example", "text", "answers"), SQUAD)
def test_squad(example, text, answers):
    task = get_task("squad")
    assert task.text_pairs(example) == [(text, answers[0])]
    assert task.text_pairs(example, task_prefix=False) == [(text, answers[0])]  # there is no prefix
    assert task.evaluation_rows(example) == [(text, Reference(answers))]


@pytest.mark.parametrize(("example", "text", "target", "answers"), MRQA)
def test_mrqa(example, text, target, answers):
    for name in OUT_OF_DOMAIN:
        task = get_task(f"mrqa/{name}")
        assert task.text_pairs(example) == [(text, target)]
        assert task.evaluation_rows(example, task_prefix=False) == [(text, Reference(answers))]


def test_tasks():
    assert get_task("squad").splits == ("train", "validation")
    for name in ("squad", *(f"mrqa/{name}" for name in OUT_OF_DOMAIN)):
        task = get_task(name)
        assert (task.metrics, task.labels) == (("squad_f1", "squad_em"), ())
        assert task.evaluation == "generate"
    assert len(OUT_OF_DOMAIN) == 6
    assert all(get_task(f"mrqa/{name}").splits == ("validation",) for name in OUT_OF_DOMAIN)


def test_best_of_the_answers():
    task = get_task("squad")
    reference = task.evaluation_rows(SQUAD[1][0])[0][1]
    metrics = task.evaluate(["the us $ 4 . 5 million!", "4 . 5"], [reference, reference])
    assert metrics == {"squad_f1": 1.0, "squad_em": 1.0}
    # What keeps the unpadded way of writing has other words than the padded answers.
    assert task.evaluate(["US$4.5 million"], [reference])["squad_em"] == 0.0


def test_padding_is_stable():
    """Padding a text twice changes nothing more."""
    for example, _, _ in SQUAD:
        once = pad_punctuation(example["context"])
        assert pad_punctuation(once) == once
