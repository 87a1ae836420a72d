import dataclasses
import hashlib
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

LONG = "It was the best of times and it was the worst of times for all of them."


@pytest.fixture
def build_corpus(tool):
    return tool("build_corpus")


def words(count, seed=0):
    """Prose of words that are all different from those of other seeds."""
    letters = np.random.default_rng(seed).choice(list("abcdefghij"), (count, 9))
    return " ".join("".join(row) for row in letters) + "."


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("\u201cDon\u2019t\u201d,  he said\n again", '"Don\'t", he said again'),
        ("one\u2014two -- three--four", "one -- two -- three -- four"),
        ("1914\u20131918", "1914-1918"),
        ("wait . . . now\u2026", "wait ... now..."),
        ("an _emphatic_ word, a_b_c", "an emphatic word, a_b_c"),
        ("soft\u00adhyphen, e\u0301t\u0065\u0301, \x07bell", "softhyphen, \u00e9t\u00e9, bell"),
        ("''quoted''", '"quoted"'),
    ],
)
def test_paragraphs_are_made_plain(build_corpus, paragraph, expected):
    assert build_corpus.plain(paragraph) == expected
    assert build_corpus.plain(expected) == expected


@pytest.mark.parametrize(
    ("text", "short", "prose"),
    [
        (LONG, 8, True),
        ("Too short a line.", 8, False),
        ("Too short a line.", 3, True),
        ("A heading without end", 3, False),
        ("CHAPTER IV. In which nothing at all happens to anyone we know.", 3, False),
        ("The page www.example.org tells all about this and much more too.", 8, False),
        ("1 2 3 4 5 6 7 8 9 10 11 12 13 of 14 15 16.", 8, False),
        ("\u0442\u0430\u043a" * 12 + " and some words of English to make it long.", 8, False),
        ("word " * 8 + "x" * 41 + ".", 8, False),
        ("Some code <b>in</b> a text that is long enough to be kept.", 8, False),
    ],
)
def test_prose_is_told_from_other_lines(build_corpus, text, short, prose):
    assert build_corpus.is_prose(text, short) is prose


def test_long_texts_are_cut_at_paragraph_ends(build_corpus):
    paragraphs = ["a" * 3000, "b" * 4000, "c" * 3000, "d" * 9000, "e"]
    documents = list(build_corpus.cut(paragraphs))
    assert documents == [paragraphs[:2], paragraphs[2:3], paragraphs[3:4], paragraphs[4:]]
    assert list(build_corpus.cut([])) == []


def test_copies_are_told(build_corpus):
    first, second, avoided = words(60), words(60, seed=1), words(30, seed=2)
    copies = build_corpus.Copies([avoided])
    assert copies.verdict(first) == "kept"
    assert copies.verdict(first) == "exact"
    assert copies.verdict(first.upper().replace(" ", ", ")) == "exact"
    half = " ".join(first.split()[:40])
    assert copies.verdict(f"{half} {words(10, seed=3)}") == "near"
    assert copies.verdict(f"{second} {words(5, seed=4)} {half.split()[0]}") == "kept"
    # Eight words in a row of an evaluation text are enough, seven are not.
    eight = " ".join(avoided.split()[10:18])
    assert copies.verdict(f"{words(30, seed=5)} {eight} {words(30, seed=6)}") == "evaluation"
    seven = " ".join(avoided.split()[10:17])
    assert copies.verdict(f"{words(30, seed=7)} {seven} {words(30, seed=8)}") == "kept"


def test_few_documents_go_to_validation_whatever_their_order(build_corpus):
    documents = [words(5, seed) for seed in range(3000)]
    chosen = [build_corpus.in_validation(document) for document in documents]
    assert 10 < sum(chosen) < 60
    assert [build_corpus.in_validation(document) for document in documents] == chosen


def test_documents_are_cleaned_and_counted(build_corpus):
    read = [["CHAPTER I", f"\u201c{LONG}\u201d", words(20)], [LONG], ["x"]]
    source = SimpleNamespace(read=lambda package: iter(read), short=8)
    counts = Counter()
    kept = list(build_corpus.documents(source, None, build_corpus.Copies([]), counts))
    assert kept == [f'"{LONG}"\n{words(20)}']
    assert counts["read_documents"] == 3
    assert counts["clean_documents"] == 2
    assert counts["kept_documents"] == 1
    assert counts["exact_paragraphs"] == 1
    assert counts["kept_paragraphs"] == 2
    assert counts["kept_words"] == len(kept[0].split())


def test_a_small_corpus_is_built(build_corpus, tmp_path, monkeypatch):
    package = tmp_path / "packages" / "package.bin"
    package.parent.mkdir()
    package.write_bytes(b"package")
    texts = [[words(30, seed)] for seed in range(300)]
    source = dataclasses.replace(
        build_corpus.SOURCES[0],
        file="package.bin",
        sha256=hashlib.sha256(b"package").hexdigest(),
        read=lambda package: iter(texts),
    )
    monkeypatch.setattr(build_corpus, "Package", lambda path: path)
    monkeypatch.setattr(build_corpus, "SOURCES", [source])
    monkeypatch.setattr(build_corpus, "EVALUATION", [])
    avoid = tmp_path / "avoid.txt"
    avoid.write_text(texts[0][0])
    build_corpus.build(tmp_path / "out", package.parent, [], [avoid])
    parts = {
        name: (tmp_path / "out" / f"{name}.txt").read_text().strip().split("\n\n")
        for name in ("train", "validation")
    }
    assert sorted(sum(parts.values(), [])) == sorted(text for (text,) in texts[1:])  # noqa: RUF017
    assert all(map(build_corpus.in_validation, parts["validation"]))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["files"]["train.txt"]["documents"] == len(parts["train"])
    assert manifest["sources"][0]["counts"]["evaluation_paragraphs"] == 1
    package.write_bytes(b"other")
    with pytest.raises(SystemExit, match="not the pinned"):
        build_corpus.build(tmp_path / "out", package.parent, [], [])
