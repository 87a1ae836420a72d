"""Small made-up data in the raw layouts of GLUE, SQuAD, MRQA, AG News and IMDB.

Each `write_…` makes the files that a data set is downloaded as, and gives what TFDS's download
manager gives to that data set's builder: a folder, a file, or a dict of files.
"""

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_tsv(path: Path, rows: Iterable[Sequence[str]], start: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(row) + "\n" for row in rows]
    path.write_text(start + "".join(lines), encoding="utf-8")
    return path


def write_sst2(folder: Path) -> Path:
    header = ("sentence", "label")
    train = [("hide new secretions ", "0"), ('a "warm" smile ', "1"), ("it 's so-so ", "1")]
    write_tsv(folder / "SST-2" / "train.tsv", [header, *train])
    write_tsv(folder / "SST-2" / "dev.tsv", [header, ("unflinchingly bleak ", "0")])
    write_tsv(folder / "SST-2" / "test.tsv", [("index", "sentence"), ("0", "uneasy mishmash")])
    return folder


def write_cola(folder: Path) -> Path:
    # The files of training and development have no header.
    train = [
        ("gj04", "1", "", "Our friends won't buy this."),
        ("gj04", "0", "*", "They drank the pub."),
    ]
    write_tsv(folder / "CoLA" / "train.tsv", train)
    write_tsv(folder / "CoLA" / "dev.tsv", [("gj04", "1", "", "The sailors rode the breeze.")])
    write_tsv(folder / "CoLA" / "test.tsv", [("index", "sentence"), ("0", "Bill whistled.")])
    return folder


def write_rte(folder: Path) -> Path:
    header = ("index", "sentence1", "sentence2", "label")
    train = [
        ("0", "No weapons were found.", "Weapons were found.", "not_entailment"),
        ("1", "Rome is Italy's capital.", "Rome is in Italy.", "entailment"),
    ]
    write_tsv(folder / "RTE" / "train.tsv", [header, *train])
    write_tsv(folder / "RTE" / "dev.tsv", [header, ("0", "Oil fell.", "Oil rose.", train[0][3])])
    write_tsv(folder / "RTE" / "test.tsv", [header[:3], ("0", "One.", "Two.")])
    return folder


def write_stsb(folder: Path) -> Path:
    header = (
        *("index", "genre", "filename", "year", "old_index", "source1", "source2"),
        *("sentence1", "sentence2", "score"),
    )
    start = ("0", "main-captions", "MSRvid", "2012test", "0001", "none", "none")
    train = [
        (*start, "A plane is taking off.", "An air plane is taking off.", "5.000"),
        (*start, "A man plays a flute.", "A man is eating.", "0.700"),
        (*start, "A cat.", "A dog.", "1.714"),
    ]
    write_tsv(folder / "STS-B" / "train.tsv", [header, *train])
    write_tsv(folder / "STS-B" / "dev.tsv", [header, (*start, "A hat.", "A hard hat.", "2.500")])
    write_tsv(folder / "STS-B" / "test.tsv", [header[:-1], (*start, "A girl.", "A woman.")])
    return folder


def write_mnli(folder: Path) -> Path:
    header = [
        *("index", "promptID", "pairID", "sentence1_binary_parse", "sentence2_binary_parse"),
        *("sentence1_parse", "sentence2_parse", "sentence1", "sentence2", "label1", "gold_label"),
    ]

    def rows(*triples):
        start = ("0", "31193", "31193n", "( a )", "( b )", "(ROOT a)", "(ROOT b)")
        return [header, *((*start, a, b, label, label) for a, b, label in triples)]

    parts = {
        "train": [("Premise one.", "Hypothesis one.", "neutral"), ("P 2.", "H 2.", "entailment")],
        "dev_matched": [("Matched.", "It fits.", "contradiction")],
        "dev_mismatched": [("Mismatched.", "It does not.", "entailment")],
    }
    for name, triples in parts.items():
        write_tsv(folder / "MNLI" / f"{name}.tsv", rows(*triples))
    for name in ("test_matched", "test_mismatched"):
        test = [row[:-2] for row in rows(("P.", "H.", ""))]
        write_tsv(folder / "MNLI" / f"{name}.tsv", test)
    return folder


def write_mrpc(folder: Path) -> dict[str, Path]:
    header = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    # One file for training and development; the second file lists the pairs for development.
    train = [
        ("1", "702876", "702977", "Amrozi accused his brother.", "He accused him."),
        ("0", "2108705", "2108831", 'Yucaipa said "no".', "Shares rose 2.5%."),
        ("1", "1330381", "1330521", "They published it.", "It was published."),
    ]
    test = ("1", "1089874", "1089925", "PCCW's chief.", "Current chief.")
    return {
        "train": write_tsv(folder / "train.txt", [header, *train], start="\ufeff"),
        "dev_ids": write_tsv(folder / "dev_ids.tsv", [("1330381", "1330521")]),
        "test": write_tsv(folder / "test.txt", [header, test], start="\ufeff"),
    }


def _squad_file(path: Path, paragraphs: Iterable[tuple[str, list[tuple[str, list[str]]]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = []
    for number, (context, questions) in enumerate(paragraphs):
        qas = [
            {
                "id": f"{path.stem}-{number}-{i}",
                "question": question,
                "answers": [{"text": a, "answer_start": context.index(a)} for a in answers],
            }
            for i, (question, answers) in enumerate(questions)
        ]
        data.append({"title": f"T{number}", "paragraphs": [{"context": context, "qas": qas}]})
    path.write_text(json.dumps({"version": "1.1", "data": data}), encoding="utf-8")
    return path


def write_squad(folder: Path) -> dict[str, Path]:
    bowl = "The Denver Broncos (AFC) won 24—10."
    venue = "It cost US$4.5 million.\n\nIt is in Santa Clara."
    train = [
        (bowl, [("Who won?", ["Denver Broncos"]), ("What was the score?", ["24—10"])]),
        (venue, [("How much did it cost?", ["US$4.5 million"])]),
    ]
    dev = [(venue, [("Where's it?", ["Santa Clara", "in Santa Clara", "Santa Clara."])])]
    return {
        "train": _squad_file(folder / "train-v1.1.json", train),
        "dev": _squad_file(folder / "dev-v1.1.json", dev),
    }


def write_mrqa(folder: Path) -> dict[str, Path]:
    context = 'In 2005 [PAR] Jay\u00a0Feely kicked a "24-yard" goal. '
    question = {
        "qid": "d1",
        "question": "How long was the goal? ",
        "question_tokens": [["How", 0], ["long", 4]],
        "detected_answers": [
            {"text": "24-yard", "char_spans": [[34, 40]], "token_spans": [[8, 8]]},
            {"text": "24", "char_spans": [[34, 35], [40, 41]], "token_spans": [[8, 8], [9, 9]]},
        ],
        "answers": ["24", "24-yard"],
    }
    lines = [
        {"header": {"dataset": "DROP", "split": "dev"}},
        {"id": "", "context": context, "context_tokens": [["In", 0]], "qas": [question]},
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "DROP.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return {"test": path}


def write_ag_news(folder: Path, train_rows: int = 40) -> dict[str, Path]:
    base = folder / "ag_news_csv"
    base.mkdir(parents=True, exist_ok=True)
    topics = ("World", "Sports", "Business", "Sci/Tech")
    train = [(str(i % 4 + 1), f"Title {i}", f"About {topics[i % 4]}.") for i in range(train_rows)]
    test = [("3", "Fears for T N pension", 'Unions say they are "disappointed", again.')]
    for name, rows in (("train", train), ("test", test)):
        with (base / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    return {"ag_news_csv": folder}


def write_imdb(folder: Path, train_rows: int = 50) -> Path:
    """One archive, with the text files of each class in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        f"train/{('neg', 'pos')[i % 2]}/{i}_{1 + 8 * (i % 2)}.txt": f"Review {i}.<br /><br />End."
        for i in range(train_rows)
    }
    texts["test/pos/0_9.txt"] = "I loved it.<br/>Twice! "
    texts["train/unsup/0_0.txt"] = "Nobody rated this."
    path = folder / "aclImdb_v1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in texts.items():
            content = text.encode()
            entry = tarfile.TarInfo(f"aclImdb/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path
