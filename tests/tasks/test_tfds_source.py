import importlib.util
import json
import os
import subprocess
import sys

import pytest
from tasks import raw_layouts as raw

from softprompt_jax.errors import UserError
from softprompt_jax.tasks import tfds_source
from softprompt_jax.tasks.task import get_task, task_names
from softprompt_jax.tasks.tfds_source import MODULES, TfdsSource, register_tfds_task

needs_tfds = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in MODULES),
    reason="needs tensorflow-datasets: pip install 'softprompt-jax[tfds]'",
)
ROWS = 300


@pytest.fixture
def boolq(monkeypatch, tmp_path):
    """A source of 300 + 3 questions, and how often the download was asked for."""
    import tensorflow_datasets as tfds

    asked = []

    def download(self, url):
        asked.append(url)
        return tmp_path / "raw"

    for split, count in (("train", ROWS), ("val", 3), ("test", 1)):
        rows = [
            {"question": f"é {i}?", "passage": "p", "idx": i, "label": i % 3 == 0}
            for i in range(count)
        ]
        raw.write_jsonl(tmp_path / "raw" / "BoolQ" / f"{split}.jsonl", rows)
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", download)
    return TfdsSource("super_glue/boolq:1.0.2", str(tmp_path / "data")), asked


@needs_tfds
def test_examples(boolq):
    source, _ = boolq
    train = source.split("train")
    assert len(train) == ROWS
    examples = list(train)
    assert list(train) == examples  # the same rows in the same order
    assert [example["idx"] for example in examples] != list(range(ROWS))  # TFDS's own order
    assert sorted(examples, key=lambda example: example["idx"]) == [
        {"question": f"é {i}?", "passage": "p", "idx": i, "label": int(i % 3 == 0)}
        for i in range(ROWS)
    ]
    assert {type(value) for value in examples[0].values()} == {int, str}


@needs_tfds
def test_two_readers_at_once(boolq):
    train = boolq[0].split("train")
    first, second = iter(train), iter(train)
    ahead = [next(first) for _ in range(10)]
    assert [next(second) for _ in range(10)] == ahead
    assert next(first) == next(second)


@needs_tfds
def test_slices(boolq):
    source, _ = boolq
    most, rest = source.split("train[:95%]"), source.split("train[95%:]")
    assert (len(most), len(rest)) == (285, 15)
    assert [*most, *rest] == list(source.split("train"))


@needs_tfds
def test_prepared_once(boolq):
    source, asked = boolq
    assert asked == []
    train, validation = source.split("train"), source.split("validation")
    assert train.builder is validation.builder
    assert len(asked) == 1
    again = TfdsSource(source.name, source.data_dir)  # finds what the other has prepared
    assert len(again.split("validation")) == 3
    assert len(asked) == 1


@needs_tfds
def test_unknown_splits(boolq):
    for split in ("dev", "train[:x", "train[:5%]+dev"):
        with pytest.raises(UserError) as error:
            boolq[0].split(split)
        assert str(error.value) == (
            f"The data set super_glue/boolq:1.0.2 has no split {split!r}; it has train, "
            "validation, test."
        )


@needs_tfds
def test_fingerprint(boolq, tmp_path):
    source, _ = boolq
    splits = ("train", "train[:50%]", "train[50%:]", "validation")
    prints = [source.fingerprint(split) for split in splits]
    assert len(set(prints)) == len(prints)
    again = TfdsSource(source.name, source.data_dir)
    assert [again.fingerprint(split) for split in splits] == prints
    assert "super_glue/boolq/1.0.2" in prints[0]

    # Other rows, as many as before and as long, prepared elsewhere.
    file = tmp_path / "raw" / "BoolQ" / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows[7]["question"] = "è 7?"
    raw.write_jsonl(file, rows)
    other = TfdsSource(source.name, str(tmp_path / "other"))
    assert other.fingerprint("train") != prints[0]


@needs_tfds
def test_damaged_data(boolq):
    source, _ = boolq
    train = source.split("train")
    [path] = [part.filename for part in train.builder.info.splits["train"].file_instructions]
    os.truncate(path, os.path.getsize(path) - 3)
    with pytest.raises(UserError) as error:
        list(train)
    message = str(error.value)
    assert message.startswith("The data set super_glue/boolq/1.0.2 cannot be read (DataLossError: ")
    assert message.endswith(f"; delete {os.path.dirname(path)} to have it prepared again.")
    assert len(list(source.split("validation"))) == 3

    os.remove(path)
    with pytest.raises(UserError, match=r"cannot be read \(NotFoundError: "):
        list(train)
    with pytest.raises(UserError, match=r"cannot be read \(NotFoundError: "):
        source.fingerprint("train")


@needs_tfds
def test_a_registered_task(boolq, monkeypatch):
    source, _ = boolq
    monkeypatch.setattr("softprompt_jax.tasks.task._FACTORIES", {})
    register_tfds_task(
        "my/boolq",
        builder=source.name,
        splits={"train": "train[:80%]", "validation": "train[80%:]", "test": "validation"},
        pairs=lambda example: [(example["question"], str(example["label"]))],
        labels=("0", "1"),
    )
    assert task_names() == ("my/boolq",)
    task = get_task("my/boolq", data_dir=source.data_dir)
    sizes = {split: len(task.split(split)) for split in task.splits}
    assert sizes == {"train": 240, "validation": 60, "test": 3}
    assert (task.evaluation, task.metrics, task.prefix) == ("generate", ("accuracy",), None)
    (example, *_) = task.split("test")
    assert task.text_pairs(example) == [
        (f"my_boolq é {example['idx']}?", str(int(example["idx"] == 0)))
    ]
    assert task.fingerprint is not None
    assert task.fingerprint("test") == source.fingerprint("validation")
    with pytest.raises(UserError, match=r"no option data_dirs; did you mean data_dir\?"):
        get_task("my/boolq", data_dirs="x")


@needs_tfds
@pytest.mark.parametrize(
    "name", ["super_glue/boolq:9.9.9", "super_glue/nope", "no_such_data_set", "a b/c:d"]
)
def test_unknown_names(tmp_path, name):
    with pytest.raises(UserError) as error:
        TfdsSource(name, str(tmp_path)).split("train")
    message = str(error.value)
    assert f"cannot load the data set {name} (" in message
    assert message.endswith("correct its name or version, or give a data_dir where it is prepared.")
    assert "\n" not in message


@needs_tfds
def test_no_network(monkeypatch, tmp_path, capfd, caplog):
    """Down to the connection itself, which is refused."""
    import socket

    from tensorflow_datasets.core.download import downloader

    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(tfds_source, "RETRIES", 1)  # not to wait between them
    usual = downloader.MAX_RETRIES
    with pytest.raises(UserError) as error:
        TfdsSource("super_glue/cb", str(tmp_path)).split("train")
    message = str(error.value)
    assert message.startswith("The data set super_glue/cb cannot be downloaded and prepared (Conn")
    assert message.endswith("where there is a network, or give a data_dir where it is prepared.")
    assert "\n" not in message
    assert usual == downloader.MAX_RETRIES
    written = capfd.readouterr()
    assert written.out == ""
    assert "Retry" not in written.err + caplog.text


@needs_tfds
def test_a_failure_without_a_message(monkeypatch, tmp_path):
    import tensorflow_datasets as tfds

    def download(self, url):
        raise AssertionError

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", download)
    with pytest.raises(UserError, match=r"prepared \(AssertionError\); run it once"):
        TfdsSource("super_glue/cb", str(tmp_path)).split("train")


@pytest.mark.parametrize("module", MODULES)
def test_what_is_not_installed(monkeypatch, module):
    find = importlib.util.find_spec

    def find_spec(name, *args):
        return None if name == module else find("json" if name in MODULES else name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    source = TfdsSource("super_glue/boolq")
    for act in (source.check, lambda: source.split("train"), lambda: source.fingerprint("train")):
        with pytest.raises(UserError) as error:
            act()
        assert str(error.value) == (
            f"The data set super_glue/boolq is read by tensorflow-datasets, and {module} is not "
            "installed; run pip install 'softprompt-jax[tfds]'."
        )


@needs_tfds
@pytest.mark.slow
def test_nothing_is_imported_before_a_split_is_read(tmp_path):
    """Nor are there messages of TensorFlow, or GPUs that it takes, when it is."""
    code = """
import sys
from softprompt_jax.tasks.tfds_source import TfdsSource, register_tfds_task
from softprompt_jax.tasks.task import get_task
from softprompt_jax.errors import UserError
register_tfds_task("x", builder="super_glue/nope", pairs=list, labels=("a", "b"))
get_task("x").check()
assert not {"tensorflow", "tensorflow_datasets"} & set(sys.modules)
try:
    get_task("x", data_dir=sys.argv[1]).split("train")
except UserError:
    pass
import tensorflow as tf
assert tf.config.get_visible_devices("GPU") == []
"""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
