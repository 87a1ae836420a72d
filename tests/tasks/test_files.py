import json

import pytest

from softprompt_jax.errors import UserError
from softprompt_jax.tasks import Reference, files, get_task
from softprompt_jax.tasks.language_modelling import text_pairs_of

ROWS = [
    {"input": "wake me at 9, please", "target": "alarm"},
    {"input": 'play "Hey Jude"', "target": "music"},
    {"input": "naïve — 歌", "target": "music"},
]


def write(folder, name, rows=ROWS, *, columns=("input", "target"), text=None, bom=False):
    path = folder / name
    if text is None and path.suffix == ".jsonl":
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    elif text is None:
        quote = path.suffix == ".csv"
        cells = [columns, *[[row[column] for column in columns] for row in rows]]
        separator = "," if quote else "\t"
        text = "".join(
            separator.join('"' + c.replace('"', '""') + '"' if quote else c for c in line) + "\n"
            for line in cells
        )
    path.write_text(text, encoding="utf-8-sig" if bom else "utf-8", newline="")
    return path


def rows(task, split="train"):
    return list(task.split(split))


def load(train, validation=None, **options):
    return get_task("my-intents", train_file=train, validation_file=validation or train, **options)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("bom", [False, True])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_kinds_of_files(tmp_path, kind, bom, newline):
    path = write(tmp_path, f"train.{kind}", bom=bom)
    path.write_bytes(path.read_bytes().replace(b"\n", newline.encode()))
    task = load(path)
    assert task.labels == ("alarm", "music")
    assert task.evaluation == "score"
    assert task.metrics == ("accuracy",)
    assert task.splits == ("train", "validation")
    pairs = [pair for row in task.split("train") for pair in task.text_pairs(row, False)]
    assert pairs == [(row["input"], row["target"]) for row in ROWS]
    assert task.text_pairs(ROWS[0])[0][0] == "my-intents wake me at 9, please"


@pytest.mark.parametrize("metric", ["f1", "multirc_f1a"])
def test_the_positive_label_is_named(tmp_path, metric):
    """By the alphabet it would be the wrong one half of the time, and nobody would notice."""
    path = write(tmp_path, "t.jsonl")
    for evaluation in (None, "generate"):
        with pytest.raises(UserError, match=f"{metric}.*name both labels, the positive one second"):
            load(path, metrics=("accuracy", metric), evaluation=evaluation)
    assert load(path, metrics=(metric,), labels=("music", "alarm")).labels == ("music", "alarm")


def test_csv_cells_over_several_lines(tmp_path):
    text = 'input,target\n"two\nlines",a\nx,b\n"y",c,d\n'
    with pytest.raises(UserError, match=r"t\.csv line 5 has 3 cells, but the header has 2"):
        load(write(tmp_path, "t.csv", text=text))
    task = load(write(tmp_path, "u.csv", text=text.replace(",d", "")))
    assert rows(task)[0] == {"input": "two\nlines", "target": "a"}


def test_jsonl_values(tmp_path):
    text = '{"input": "a\u2028b", "target": 1}\n\n{"input": 2.5, "target": true, "more": [null]}\n'
    task = load(write(tmp_path, "t.jsonl", text=text))
    pairs = [task.text_pairs(row, False)[0] for row in task.split("train")]
    assert pairs == [("a\u2028b", "1"), ("2.5", "true")]


def test_template(tmp_path):
    rows = [{"q": f"q{i}?", "the context": "c", "answer": f"Answer {i} "} for i in range(3)]
    path = write(tmp_path, "t.jsonl", rows)
    task = load(
        path,
        target_column="answer",
        input_template="{{question}}: {q} context: {the context}\nanswer:",
        evaluation="generate",
    )
    assert task.text_pairs(rows[0], False) == [("{question}: q0? context: c\nanswer:", "Answer 0")]
    assert task.input_suffix == "\nanswer:"
    assert task.labels == ()
    assert task.metrics == ("exact_match",)
    for template in ("no column", "{", "{}", "{0}", "{q.__class__}", "{q[0]}", "{q!r}", "{q:>9}"):
        with pytest.raises(UserError, match="input_template"):
            load(path, target_column="answer", input_template=template, evaluation="generate")
    with pytest.raises(UserError, match=r"line 1 has no column 'z'.*'q', 'the context', 'answer'"):
        load(path, target_column="answer", input_template="{z}", evaluation="generate")


def test_given_labels_and_test_split(tmp_path):
    path = write(tmp_path, "t.csv")
    task = load(path, labels=("music", "alarm", "weather"), test_file=path)
    assert task.labels == ("music", "alarm", "weather")
    assert task.splits == ("train", "validation", "test")
    assert load(path, labels=["music", "alarm"], evaluation="generate").labels == ("music", "alarm")
    with pytest.raises(UserError, match="'alarm', but the labels are music, weather"):
        load(path, labels=("music", "weather"))
    for labels in (("music", "music", "alarm"), ("", "alarm", "music"), "music", (0, 1)):
        with pytest.raises(UserError, match="labels"):
            load(path, labels=labels)
    with pytest.raises(UserError, match="no 'test' split; it has train, validation"):
        load(path).split("test")


def test_labels_the_training_rows_lack(tmp_path):
    train = write(tmp_path, "train.csv")
    other = write(tmp_path, "dev.jsonl", [*ROWS, {"input": "rain?", "target": "weather"}])
    with pytest.raises(UserError, match=r"dev\.jsonl line 4 has the label 'weather'.*alarm, music"):
        load(train, other)
    with pytest.raises(UserError, match=r"dev\.jsonl line 4 has the label 'weather'"):
        load(train, train, test_file=other)
    assert len(load(train, other, evaluation="generate").split("validation")) == 4


def test_targets_that_are_no_labels(tmp_path):
    rows = [{"input": "x", "target": f"answer {i}"} for i in range(60)]
    with pytest.raises(UserError, match=r"60 different targets in 60.*evaluation='generate'"):
        load(write(tmp_path, "t.jsonl", rows))
    with pytest.raises(UserError, match="at least two"):
        load(write(tmp_path, "u.jsonl", ROWS[1:]))
    with pytest.raises(UserError, match="line 1 has an empty label"):
        load(write(tmp_path, "v.jsonl", [{"input": "x", "target": " "}, *ROWS]))


def test_splits_are_read_anew_each_time(tmp_path):
    path = write(tmp_path, "t.jsonl", ROWS * 50)
    task = load(path)
    split = task.split("train")
    assert len(split) == 150
    first, second = iter(split), iter(split)
    assert [next(first), next(first), next(second)] == [ROWS[0], ROWS[1], ROWS[0]]
    assert list(split) == list(split) == ROWS * 50
    write(tmp_path, "t.jsonl", ROWS)
    with pytest.raises(UserError, match=r"t\.jsonl has changed since it was checked"):
        list(split)
    with pytest.raises(UserError, match=r"t\.jsonl has changed since it was checked"):
        task.fingerprint("train")
    path.unlink()
    with pytest.raises(UserError, match=r"t\.jsonl has changed since it was checked"):
        list(split)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_row_of_every_file_is_checked_at_once(tmp_path, split):
    sound = write(tmp_path, "sound.jsonl", ROWS * 100)
    spoilt = write(tmp_path, "spoilt.jsonl", [*ROWS * 100, {"input": "x"}])
    files = {f"{name}_file": sound for name in ("train", "validation", "test")}
    with pytest.raises(UserError, match=r"spoilt\.jsonl line 301 has no column 'target'"):
        get_task("mine", **files | {f"{split}_file": spoilt})
    empty = write(tmp_path, "empty.csv", text="input,target\n")
    with pytest.raises(UserError, match=rf"The {split} file .*empty\.csv has no rows"):
        get_task("mine", **files | {f"{split}_file": empty})


def test_metrics(tmp_path):
    path = write(tmp_path, "t.csv")
    assert load(path, metrics=["macro_f1", "accuracy"]).metrics == ("macro_f1", "accuracy")
    assert load(path, evaluation="generate", metrics=["squad_f1"]).metrics == ("squad_f1",)
    with pytest.raises(UserError, match=r"'macrof1': did you mean macro_f1\?"):
        load(tmp_path / "not even looked for", path, metrics=["macrof1"])
    with pytest.raises(UserError, match=r"metrics='accuracy'; give a list"):
        load(path, metrics="accuracy")
    with pytest.raises(UserError, match="the one metric log_likelihood"):
        load(path, evaluation="likelihood", metrics=["accuracy"])


# --- Several accepted answers ----------------------------------------------------------------

ANSWERS = [("Rome", ("Rome",)), ("a| b |a||", ("a", "b")), ("c", ("c",))]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_separated_answers(tmp_path, kind):
    path = write(tmp_path, f"t.{kind}", [{"input": "q", "target": text} for text, _ in ANSWERS])
    task = load(path, answer_separator="|", evaluation="generate")
    assert [task.evaluation_rows(row, False) for row in rows(task)] == [
        [("q", Reference(answers))] for _, answers in ANSWERS
    ]
    assert [task.text_pairs(row, False) for row in rows(task)] == [
        [("q", answers[0])] for _, answers in ANSWERS
    ]
    whole = load(path, evaluation="generate")
    assert whole.evaluation_rows(rows(whole)[1], False) == [("q", Reference(("a| b |a||",)))]
    with pytest.raises(UserError, match="empty answer_separator"):
        load(path, answer_separator="")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_listed_answers(tmp_path, kind):
    listed = [{"input": "q", "target": list(answers)} for _, answers in ANSWERS]
    if kind == "jsonl":
        path = write(tmp_path, "t.jsonl", [*listed, {"input": "q", "target": [" ", 7, ""]}])
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        path = tmp_path / "t.parquet"
        parquet.write_table(
            pyarrow.Table.from_pylist([*listed, {"input": "q", "target": [" ", "7", ""]}]), path
        )
    task = load(path, evaluation="generate")
    references = [task.evaluation_rows(row, False)[0][1] for row in rows(task)]
    assert references == [*(Reference(answers) for _, answers in ANSWERS), Reference(("7",))]
    pairs = [task.text_pairs(row, False)[0] for row in rows(task)]
    assert pairs == [("q", "Rome"), ("q", "a"), ("q", "c"), ("q", "7")]
    # An input that shows the target's column cannot show a list.
    with pytest.raises(UserError, match=r"has \[\"Rome\"\] in column 'target'; it must be text,"):
        load(path, input_template="{target}", evaluation="generate")


def test_every_answer_is_a_label(tmp_path):
    train = write(tmp_path, "t.jsonl", [{"input": "x", "target": ["a", "b"]}])
    task = load(train)
    assert task.labels == ("a", "b")
    assert task.evaluation_rows(rows(task)[0], False) == [("x", Reference(("a", "b")))]
    other = write(tmp_path, "u.jsonl", [{"input": "x", "target": ["b", "c"]}])
    with pytest.raises(UserError, match=r"u\.jsonl line 1 has the label 'c'.*have only a, b;"):
        load(train, other)
    with pytest.raises(
        UserError, match=r"t\.jsonl line 1 has the label 'b', but the labels are a, c"
    ):
        load(train, labels=["a", "c"])


def test_free_text_is_told_before_all_of_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_LABELS", 20)
    repeated = [{"input": "x", "target": f"{i % 30}"} for i in range(300)]
    path = write(tmp_path, "t.jsonl", repeated)
    with pytest.raises(UserError, match="more than 20 different targets in the first 21 training"):
        load(path)
    task = load(path, labels=[f"{i}" for i in range(30)])
    assert len(task.labels) == 30


# --- Plain text and likelihood ---------------------------------------------------------------

DOCUMENTS = ["One two three four. Five six seven eight.", "歌 — naïve or\u2028not?", "a b"]


def test_text_files(tmp_path):
    path = write(tmp_path, "t.txt", text="\n".join(DOCUMENTS) + "\n\n")
    task = load(path)
    assert (task.evaluation, task.metrics) == ("likelihood", ("log_likelihood",))
    assert (task.labels, task.questions, task.prefix) == ((), None, "")
    assert rows(task) == [{"text": document} for document in DOCUMENTS]
    for document in DOCUMENTS:
        pairs = task.text_pairs({"text": document})
        assert pairs == text_pairs_of(document)
        assert pairs
        assert task.evaluation_rows({"text": document}) == [
            (text, Reference((target,))) for text, target in pairs
        ]


def test_text_column(tmp_path):
    table = [{"body": document, "id": str(i)} for i, document in enumerate(DOCUMENTS)]
    path = write(tmp_path, "t.csv", table, columns=("id", "body"))
    task = load(path, text_column="body")
    assert [task.text_pairs(row) for row in rows(task)] == [text_pairs_of(d) for d in DOCUMENTS]
    text = write(tmp_path, "t.txt", text="a b\n")
    with pytest.raises(UserError, match=r"t\.txt line 1 has no column 'body'; .* 'text'"):
        load(path, text, text_column="body")
    with pytest.raises(UserError, match=r"t\.csv line 2 has no column 'text'"):
        load(path, text)
    for option in ({"labels": ["a", "b"]}, {"input_template": "{id}"}, {"answer_separator": "|"}):
        with pytest.raises(UserError, match=f"plain text .* takes no {next(iter(option))}; remove"):
            load(path, text_column="body", **option)
    with pytest.raises(UserError, match="evaluated by 'likelihood' and not by 'score'"):
        load(text, evaluation="score")


def test_likelihood_of_targets(tmp_path):
    task = load(write(tmp_path, "t.csv"), evaluation="likelihood")
    assert (task.metrics, task.labels, task.questions) == (("log_likelihood",), (), None)
    pairs = [pair for row in rows(task) for pair in task.text_pairs(row, False)]
    assert pairs == [(row["input"], row["target"]) for row in ROWS]


# --- Fingerprints ----------------------------------------------------------------------------


def test_fingerprint_changes_with_file_and_options(tmp_path):
    text = "input\ttarget\tmore\na|b\tc|d\te\na|b\tf\te\n"
    train, same = (write(tmp_path, name, text=text) for name in ("t.tsv", "u.tsv"))
    other = write(tmp_path, "v.tsv", text=text.replace("f", "g"))

    def fingerprint(file=train, **options):
        task = load(file, evaluation="generate", **options)
        assert task.fingerprint("train") == task.fingerprint("validation")
        return task.fingerprint("train")

    first = fingerprint()
    assert len(first) == 64
    assert first == fingerprint() == fingerprint(same)
    # What changes no pair changes no fingerprint.
    assert first == fingerprint(labels=["c|d", "f"]) == fingerprint(metrics=["squad_f1"])
    changed = [
        fingerprint(other),
        fingerprint(input_column="more"),
        fingerprint(target_column="more"),
        fingerprint(input_template="{input}"),
        fingerprint(input_template="{input} {more}"),
        fingerprint(answer_separator="|"),
        fingerprint(answer_separator="||"),
        load(train, text_column="input").fingerprint("train"),
        load(train, text_column="more").fingerprint("train"),
    ]
    assert len({first, *changed}) == 1 + len(changed)
    task = load(train, other, evaluation="generate")
    assert task.fingerprint("train") == first
    assert task.fingerprint("validation") == changed[0]


def test_kind_of_file_is_in_the_fingerprint(tmp_path):
    quoted = 'text\n"one, two"\n'  # a CSV reader takes the quotation marks off, a TSV reader not
    tasks = [
        load(write(tmp_path, name, text=quoted), text_column="text") for name in ("t.csv", "t.tsv")
    ]
    assert rows(tasks[0]) != rows(tasks[1])
    assert tasks[0].fingerprint("train") != tasks[1].fingerprint("train")


def test_a_validation_file_is_needed(tmp_path):
    with pytest.raises(UserError, match="no validation_file"):
        get_task("mine", train_file=write(tmp_path, "t.csv"))
