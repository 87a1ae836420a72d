"""TFDS's own builders, run offline on small files in the raw layout of each data set."""

import importlib.util

import pytest
from tasks import raw_glue_squad as raw

from softprompt_jax.tasks import Reference, get_task, task_names
from softprompt_jax.tasks.tfds_source import MODULES

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in MODULES),
    reason="needs tensorflow-datasets: pip install 'softprompt-jax[tfds]'",
)

RTE = "rte sentence1: {} sentence2: {}"
MRPC = "mrpc sentence1: {} sentence2: {}"
STSB = "stsb sentence1: {} sentence2: {}"
VENUE = "It cost US $ 4 . 5 million . It is in Santa Clara . "
BOWL = "The Denver Broncos ( AFC ) won 24—10 . "

# Task -> (what writes its raw files, split -> rows); the order of rows is TFDS's own.
EXPECTED = {
    "glue/sst2": (
        raw.write_sst2,
        {
            "train": {
                ("sst2 sentence: hide new secretions ", "negative"),
                ('sst2 sentence: a "warm" smile ', "positive"),
                ("sst2 sentence: it 's so-so ", "positive"),
            },
            "validation": {("sst2 sentence: unflinchingly bleak ", "negative")},
        },
    ),
    "glue/cola": (
        raw.write_cola,
        {
            "train": {
                ("cola sentence: Our friends won't buy this.", "acceptable"),
                ("cola sentence: They drank the pub.", "unacceptable"),
            },
            "validation": {("cola sentence: The sailors rode the breeze.", "acceptable")},
        },
    ),
    "glue/rte": (
        raw.write_rte,
        {
            "train": {
                (RTE.format("No weapons were found.", "Weapons were found."), "not_entailment"),
                (RTE.format("Rome is Italy's capital.", "Rome is in Italy."), "entailment"),
            },
            "validation": {(RTE.format("Oil fell.", "Oil rose."), "not_entailment")},
        },
    ),
    "glue/mrpc": (
        raw.write_mrpc,
        {
            "train": {
                (MRPC.format("Amrozi accused his brother.", "He accused him."), "equivalent"),
                (MRPC.format('Yucaipa said "no".', "Shares rose 2.5%."), "not_equivalent"),
            },
            "validation": {(MRPC.format("They published it.", "It was published."), "equivalent")},
        },
    ),
    "glue/stsb": (
        raw.write_stsb,
        {
            "train": {
                (STSB.format("A plane is taking off.", "An air plane is taking off."), "5.0"),
                (STSB.format("A man plays a flute.", "A man is eating."), "0.8"),
                (STSB.format("A cat.", "A dog."), "1.8"),
            },
            "validation": {(STSB.format("A hat.", "A hard hat."), "2.4")},
        },
    ),
    "glue/mnli": (
        raw.write_mnli,
        {
            "train": {
                ("mnli hypothesis: Hypothesis one. premise: Premise one.", "neutral"),
                ("mnli hypothesis: H 2. premise: P 2.", "entailment"),
            },
            "validation": {("mnli hypothesis: It fits. premise: Matched.", "contradiction")},
        },
    ),
    "glue/mnli_matched": (
        raw.write_mnli,
        {"validation": {("mnli hypothesis: It fits. premise: Matched.", "contradiction")}},
    ),
    "glue/mnli_mismatched": (
        raw.write_mnli,
        {"validation": {("mnli hypothesis: It does not. premise: Mismatched.", "entailment")}},
    ),
    "squad": (
        raw.write_squad,
        {
            "train": {
                (f"question: Who won ? context: {BOWL}", "Denver Broncos"),
                (f"question: What was the score ? context: {BOWL}", "24—10"),
                (f"question: How much did it cost ? context: {VENUE}", "US $ 4 . 5 million"),
            },
            "validation": {(f"question: Where ' s it ? context: {VENUE}", "Santa Clara")},
        },
    ),
    "mrqa/drop": (
        raw.write_mrqa,
        {
            "validation": {
                (
                    "question: How long was the goal ? context: In 2005 [ PAR ] Jay Feely kicked "
                    'a " 24 - yard " goal . ',
                    "24 - yard",
                )
            }
        },
    ),
}
ANSWERS = {
    "squad": ("Santa Clara", "in Santa Clara", "Santa Clara . "),
    "mrqa/drop": ("24", "24 - yard"),
}


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """get_task whose data set finds its downloads on disk."""
    import tensorflow_datasets as tfds

    def get(name, write):
        made = write(tmp_path / "raw")
        for method in ("download", "extract", "download_and_extract"):
            monkeypatch.setattr(tfds.download.DownloadManager, method, lambda self, urls: made)
        return get_task(name, data_dir=str(tmp_path / "data"))

    return get


@pytest.mark.parametrize("name", EXPECTED)
def test_builder(prepared, name):
    write, expected = EXPECTED[name]
    task = prepared(name, write)
    assert set(task.splits) == set(expected)
    for split, rows in expected.items():
        examples = task.split(split)
        assert len(examples) == len(rows)
        first, again = ([task.text_pairs(example) for example in examples] for _ in range(2))
        assert {pair for pairs in first for pair in pairs} == rows
        assert first == again
    (example,) = task.split("validation")
    ((text, reference),) = task.evaluation_rows(example)
    ((same_text, target),) = expected["validation"]
    assert (text, reference) == (same_text, Reference(ANSWERS.get(name, (target,))))
    assert task.evaluate([target], [reference])  # every metric takes these references


@pytest.mark.parametrize("name", [name for name in task_names() if name.startswith("glue/")])
def test_names_are_those_of_the_data_set(name):
    """Also of the tasks whose builder does not run above."""
    import tensorflow_datasets as tfds

    config = tfds.text.glue.Glue.builder_configs[name.removeprefix("glue/")]
    task = get_task(name)
    example = {"idx": 0, "label": 0, **{field: f"<{field}>" for field in config.text_features}}
    ((text, target),) = task.text_pairs(example, task_prefix=False)
    assert text == " ".join(f"{field}: <{field}>" for field in sorted(config.text_features))
    assert target == task.labels[0]
    if config.label_classes is not None:  # STS-B has numbers
        assert task.labels == tuple(config.label_classes)


def test_topics(prepared):
    task = prepared("ag_news_subset", raw.write_ag_news)
    rows = {
        split: [pair for example in task.split(split) for pair in task.text_pairs(example, False)]
        for split in task.splits
    }
    # 95 % and 5 % of the training rows, each of them in one of the two.
    assert {split: len(pairs) for split, pairs in rows.items()} == {
        "train": 38,
        "validation": 2,
        "test": 1,
    }
    topics = ("World", "Sports", "Business", "Sci/Tech")
    assert set(rows["train"]) | set(rows["validation"]) == {
        (f"title: Title {i} description: About {topics[i % 4]}.", topics[i % 4]) for i in range(40)
    }
    assert rows["test"] == [
        (
            'title: Fears for T N pension description: Unions say they are "disappointed", again.',
            "Business",
        )
    ]


def test_sentiments(prepared):
    task = prepared("imdb_reviews", raw.write_imdb)
    rows = {
        split: [pair for example in task.split(split) for pair in task.text_pairs(example, False)]
        for split in task.splits
    }
    assert {split: len(pairs) for split, pairs in rows.items()} == {
        "train": 48,
        "validation": 2,
        "test": 1,
    }
    assert set(rows["train"]) | set(rows["validation"]) == {
        (f"review: Review {i}. End.", ("negative", "positive")[i % 2]) for i in range(50)
    }
    assert rows["test"] == [("review: I loved it. Twice!", "positive")]


def test_c4_as_found_in_data_dir(tmp_path):
    """C4 as it is found prepared in data_dir; a cluster would be needed to make it."""
    import tensorflow_datasets as tfds

    documents = {
        "train": [f"Document {i} has a few words." for i in range(20)] + ["Short"],
        "validation": ["The first half. The second half."],
    }
    fields = ("text", "timestamp", "content-length", "content-type", "url")
    text = tfds.features.Text()
    tfds.dataset_builders.store_as_tfds_dataset(
        name="c4",
        config="en",
        version="3.1.0",
        data_dir=tmp_path,
        features=tfds.features.FeaturesDict(dict.fromkeys(fields, text)),
        split_datasets={
            split: [(i, {**dict.fromkeys(fields, ""), "text": text}) for i, text in enumerate(all_)]
            for split, all_ in documents.items()
        },
    )
    task = get_task("c4", data_dir=str(tmp_path))
    examples = task.split("train")
    assert len(examples) == 21
    first = next(iter(examples))
    assert first["text"] in documents["train"]
    rows = [pair for example in examples for pair in task.text_pairs(example)]
    # One of the documents is too short to be cut.
    assert set(rows) == {(f"Document {i} has", "a few words.") for i in range(20)}
    (example,) = task.split("validation")
    assert task.evaluation_rows(example) == [("The first half.", Reference(("The second half.",)))]
