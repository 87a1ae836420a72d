import json
import string

import numpy as np
import pytest
from transformers import AutoTokenizer

PIECES = 400


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sentences of a small vocabulary, with years in between."""
    generator = np.random.default_rng(0)
    letters = generator.choice(list("abdeiklmnoprstu"), (400, 5))
    stems = ["talk", "walk", *map("".join, letters)]
    endings = ["", "s", "ed", "ing", "er"]
    lines = []
    for _ in range(8000):
        chosen = generator.choice(stems, 9), generator.choice(endings, 9)
        text = " ".join(map("".join, zip(*chosen, strict=True)))
        lines += [f"{text} in {generator.integers(1800, 2000)}, he said.", ""]
    path = tmp_path_factory.mktemp("corpus") / "train.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def build_vocabulary(tool):
    return tool("build_vocabulary")


@pytest.fixture(scope="module")
def folder(build_vocabulary, corpus):
    tokenizer = build_vocabulary.build(*build_vocabulary.train(corpus, PIECES))
    build_vocabulary.save(tokenizer, corpus.parent / "vocabulary")
    return corpus.parent / "vocabulary"


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def test_the_same_corpus_gives_the_same_bytes(build_vocabulary, corpus, folder, tmp_path):
    again = build_vocabulary.build(*build_vocabulary.train(corpus, PIECES))
    build_vocabulary.save(again, tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_ids_are_laid_out_as_in_t5(tokenizer):
    assert type(tokenizer).__name__ == "T5Tokenizer"
    assert len(tokenizer) == PIECES + 100
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    roles = tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id
    assert roles == (0, 1, 2)
    for number in range(100):
        assert tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>") == PIECES + 99 - number
    ids = tokenizer("walked <extra_id_0> talking<extra_id_99>.")["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert pieces.count("<extra_id_0>") == pieces.count("<extra_id_99>") == 1
    assert pieces[-1] == "</s>"
    assert pieces[:3] == ["\u2581walk", "ed", "<extra_id_0>"]


def test_every_ascii_character_and_latin_letter_is_a_piece(tokenizer):
    printable = string.digits + string.ascii_letters + string.punctuation
    letters = "\u00e9\u00e8\u00fc\u00f1\u00e7\u00df\u00c5\u00d8\u00e6\u0153\u00a3"
    for character in printable + letters:
        assert tokenizer.get_vocab().get(character, 0) > 2, character
    assert tokenizer.decode(tokenizer(printable)["input_ids"][:-1]) == printable
    assert tokenizer("\u4e16")["input_ids"][1] == 2


def test_digits_are_single(tokenizer):
    for piece in tokenizer.get_vocab():
        if any(character.isdigit() for character in piece) and "extra_id" not in piece:
            assert len(piece) == 1


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ('He  said:\n\t"Don\'t"\u00a0-- 12.5%', 'He said: "Don\'t" -- 12.5%'),
        ("\u201cDon\u2019t\u201d\u2014he said\u2026", '"Don\'t" -- he said...'),
        ("\ufb01ne, \uff21\uff22, caf\u0065\u0301, \u00bd", "fine, AB, caf\u00e9, 1/2"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
    ],
)
def test_text_comes_back_normalised(tokenizer, text, normal):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == normal
    assert ids == tokenizer(normal)["input_ids"]


def test_the_file_is_read_alike_by_the_tokenizers_library(folder, tokenizer):
    from tokenizers import Tokenizer

    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in ("He walked, talked.\nIn 1984 <extra_id_3>", "\ufb01ne \u201cx\u201d", ""):
        assert alone.encode(text).ids == tokenizer(text)["input_ids"]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "T5Tokenizer"
