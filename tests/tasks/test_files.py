import json

import pytest

from softprompt_jax.errors import UserError
from softprompt_jax.tasks import get_task

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
    assert task.text_pairs(task.split("train")[0])[0][0] == "my-intents wake me at 9, please"


def test_csv_cells_over_several_lines(tmp_path):
    text = 'input,target\n"two\nlines",a\nx,b\n"y",c,d\n'
    with pytest.raises(UserError, match=r"t\.csv line 5 has 3 cells, but the header has 2"):
        load(write(tmp_path, "t.csv", text=text))
    task = load(write(tmp_path, "u.csv", text=text.replace(",d", "")))
    assert task.split("train")[0] == {"input": "two\nlines", "target": "a"}


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
    for labels in (("music", "music", "alarm"), ("", "alarm", "music"), "music"):
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


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.jsonl", '{"input": "a", "target": "b"}\n{"input": \n', r"t\.jsonl line 2 is not valid"),
        ("t.jsonl", '\n["a", "b"]\n', r"t\.jsonl line 2 is not a JSON object"),
        ("t.jsonl", '{"input": "a"}\n', r"line 1 has no column 'target'; .*'input'"),
        ("t.jsonl", '{"input": null, "target": "b"}\n', r"line 1 has null in column 'input'"),
        ("t.jsonl", '{"input": ["a"], "target": "b"}\n', r'line 1 has \["a"\] in column'),
        ("t.jsonl", '{"input": "\\ud83d", "target": "b"}\n', r"line 1 has half a character"),
        ("t.jsonl", "\n", r"train file .*t\.jsonl has no rows"),
        ("t.csv", "input,label\na,b\n", r"no column 'target'; .*'input', 'label'"),
        ("t.csv", 'input,target\na,b\nc,"d\n', r"t\.csv line 3 is not valid CSV"),
        ("t.csv", "input,target\na\n", r"t\.csv line 2 has 1 cells"),
        ("t.csv", "input,input,target\na,b,c\n", r"line 1 names a column twice"),
        ("t.csv", "input,target\n", r"has no rows"),
        ("t.csv", "", r"has no rows"),
        ("t.tsv", "input\ttarget\na\tb\n\nc\n", r"t\.tsv line 4 has 1 cells"),
        ("t.txt", "a\n", r"of no known kind; use \.jsonl, \.csv or \.tsv"),
    ],
)
def test_malformed_files(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, name, text=text))


def test_missing_files_and_bad_encoding(tmp_path):
    path = write(tmp_path, "t.csv")
    with pytest.raises(UserError, match=r"There is no file .*none\.csv"):
        load(tmp_path / "none.csv")
    with pytest.raises(UserError, match="no validation_file"):
        get_task("mine", train_file=path)
    with pytest.raises(UserError, match="of no known kind"):
        load(tmp_path)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("input,target\nnaïve,a\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.csv is not UTF-8 text \(byte 15\)"):
        load(latin)
