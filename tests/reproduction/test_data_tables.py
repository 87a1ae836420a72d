"""Tables 7 to 16: counted by hand on small data, and what is printed beside the counts."""

import dataclasses
import importlib.util
from collections import Counter

import pytest
from tasks import raw_layouts as raw

from softprompt_jax.errors import UserError
from softprompt_jax.reproduction import data_tables
from softprompt_jax.reproduction.catalogue import EXPERIMENTS
from softprompt_jax.reproduction.experiment import Context
from softprompt_jax.reproduction.presets import PAPER, SMALL, SMOKE
from softprompt_jax.reproduction.published import TABLE_7, TABLES_8_TO_16
from softprompt_jax.reproduction.results import as_markdown
from softprompt_jax.tasks import get_task, movie_reviews, sms_spam
from softprompt_jax.tasks.tfds_source import MODULES

needs_tfds = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in MODULES),
    reason="needs tensorflow-datasets: pip install 'softprompt-jax[tfds]'",
)


@pytest.fixture
def data(monkeypatch, tmp_path):
    """TFDS that finds some of SuperGLUE's raw files on disk: a few rows each."""
    import tensorflow_datasets as tfds

    for archive in ("CB", "MultiRC", "ReCoRD", "WSC"):
        raw.write_super_glue(tmp_path / "raw", archive)
    manager = tfds.download.DownloadManager
    monkeypatch.setattr(manager, "download_and_extract", lambda self, urls: tmp_path / "raw")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    # TFDS reads the variable when it is imported.
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "data"))


def compute(name, tmp_path, preset=PAPER):
    return EXPERIMENTS[name].compute(Context(preset, tmp_path))


def values(result):
    return {tuple(row.coordinates.values()): row.ours.mean for row in result.rows}


@needs_tfds
def test_sizes(data, tmp_path, monkeypatch):
    names = ("super_glue/cb", "super_glue/multirc", "super_glue/record", "super_glue/wsc.fixed")
    monkeypatch.setattr(data_tables, "TABLE_7", {name: TABLE_7[name] for name in names})
    result = compute("tab7", tmp_path)
    assert values(result) == {
        ("super_glue/cb", "train"): 2,
        ("super_glue/cb", "validation"): 3,
        ("super_glue/multirc", "train"): 3,
        ("super_glue/multirc", "validation"): 3,
        ("super_glue/record", "train"): 2,
        ("super_glue/record", "validation"): 1,
        ("super_glue/wsc.fixed", "train"): 2,
        ("super_glue/wsc.fixed", "validation"): 2,
    }
    assert "super_glue/wsc.fixed, train: 2 rows of 2 examples, of 3 that the data set has." in (
        result.notes
    )
    assert "super_glue/record, train: 3 rows of 2 examples, of 2 that the data set has." in (
        result.notes
    )
    differences = {tuple(row.coordinates.values()): row.difference for row in result.rows}
    assert differences["super_glue/record", "train"] == 2 - 100_730


@needs_tfds
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "tab9",
            {
                ("train", "contradiction"): 50,
                ("train", "entailment"): 50,
                ("train", "neutral"): 0,
                ("validation", "contradiction"): 100 / 3,
                ("validation", "entailment"): 100 / 3,
                ("validation", "neutral"): 100 / 3,
            },
        ),
        (
            "tab11",
            {
                ("train", "False"): 100 / 3,
                ("train", "True"): 200 / 3,
                ("validation", "False"): 200 / 3,
                ("validation", "True"): 100 / 3,
            },
        ),
        # Trained on right nouns only.
        (
            "tab13",
            {
                ("train", "False"): 0,
                ("train", "True"): 100,
                ("validation", "False"): 50,
                ("validation", "True"): 50,
            },
        ),
    ],
)
def test_labels(data, tmp_path, name, expected):
    result = compute(name, tmp_path)
    assert values(result) == pytest.approx(expected)
    # The paper has a number for each.
    assert all(row.paper is not None for row in result.rows)


def label_of(line, task):
    _, column, _ = line.split("\t")
    return task.LABELS[float(column) > 0]


@pytest.mark.parametrize(
    ("name", "task"), [("tab8", movie_reviews), ("tab9", sms_spam)], ids=["tab8", "tab9"]
)
def test_packaged_data(tmp_path, name, task):
    """The splits together have the labels of the file."""
    lines = task.DATA_FILE.read_text(encoding="utf-8").splitlines()[1:]
    in_file = Counter(label_of(line, task) for line in lines)
    result = compute(name, tmp_path, SMOKE)
    sizes = {"test": 1000, "validation": 500, "train": len(lines) - 1500}
    for label in task.LABELS:
        counted = sum(
            row.ours.mean * sizes[row.coordinates["split"]] / 100
            for row in result.rows
            if row.coordinates["label"] == label
        )
        assert counted == pytest.approx(in_file[label])
    assert all(row.paper is None for row in result.rows)
    assert "stands in for super_glue/" in result.notes[-1]
    counted = values(compute("tab7", tmp_path, SMALL))
    data_set = result.data.removesuffix(" (in its place)")
    assert {split: counted[data_set, split] for split in sizes} == sizes


def test_what_needs_the_papers_data(tmp_path):
    for number in range(10, 17):
        assert EXPERIMENTS[f"tab{number}"].needs_the_papers
        with pytest.raises(UserError, match=f"Table {number} needs the data set .* --preset paper"):
            compute(f"tab{number}", tmp_path, SMALL)
    assert not any(EXPERIMENTS[name].needs_the_papers for name in ("tab7", "tab8", "tab9"))


def test_the_papers_tables_are_of_our_tasks():
    assert list(TABLES_8_TO_16) == list(range(8, 17))
    for name, sizes in TABLE_7.items():
        assert set(sizes) == set(get_task(name).splits), name
    for number, table in TABLES_8_TO_16.items():
        labels = get_task(table.task).labels or ("False", "True")
        expected = {(split, label) for split in ("train", "validation") for label in labels}
        assert set(table.shares) == expected
        for split in ("train", "validation"):
            shares = [share for (where, _), share in table.shares.items() if where == split]
            misprinted = (number, split) == (14, "train")
            assert sum(shares) == pytest.approx(101.0 if misprinted else 100.0)
            # Each is a number of examples; of MultiRC and the like all are.
            size = TABLE_7[table.task][split]
            for share in shares:
                nearest = round(share * size / 100)
                assert abs(100 * nearest / size - share) <= 0.05 + 1e-9, (number, split, share)


@pytest.mark.parametrize("name", ["tab7", "tab8"])
def test_files(tmp_path, name):
    pytest.importorskip("matplotlib")
    told = EXPERIMENTS[name].run(Context(SMOKE, tmp_path, command="reproduce"))
    text = as_markdown(told)
    assert "Preset `smoke`: counted from the data; no model is run." in text
    assert (tmp_path / "smoke" / f"{name}.png").stat().st_size > 5_000
    if name == "tab7":
        assert "| split | movie_reviews | sms_spam |" in text
        assert "| validation | 500 | 500 |" in text


def test_a_target_that_is_no_label_is_told(tmp_path, monkeypatch):
    task = dataclasses.replace(
        get_task("movie_reviews"),
        load=lambda split: [{"text": "a"}, {"text": "b"}],
        pairs=lambda example: [(example["text"], "positive" if example["text"] == "a" else "odd")],
        splits=("train",),
    )
    monkeypatch.setattr(data_tables, "get_task", lambda name: task)
    result = compute("tab8", tmp_path, SMOKE)
    assert values(result) == {("train", "negative"): 0, ("train", "positive"): 50}
    assert "train: 2 rows, 1 of them with none of these labels." in result.notes
