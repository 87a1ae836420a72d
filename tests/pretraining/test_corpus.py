import dataclasses
import os
import time

import numpy as np
import pytest
from tiny_models import write_tokenizer
from transformers import PreTrainedTokenizerFast

from softprompt_jax.errors import UserError
from softprompt_jax.pretraining import corpus as module
from softprompt_jax.pretraining.config import CorpusOptions
from softprompt_jax.pretraining.corpus import check_corpus, read_corpus

EOS = 1
TEXT = "\ufeffThe sky is blue.\r\nIt is great!\n\n \n\na cat\nthe dog\nthat film\n\nnot good"
DOCUMENTS = ("The sky is blue. It is great!", "a cat the dog that film", "not good")


def tokenizer_in(folder, words=("the", "sky", "blue", "cat")):
    write_tokenizer(folder, "t5", words)
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


@pytest.fixture
def tokenizer(tmp_path):
    return tokenizer_in(tmp_path / "tokenizer")


@pytest.fixture
def options(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    other = tmp_path / "other.txt"
    other.write_text("blue cat\n")
    return CorpusOptions(train_files=(str(path),), validation_files=(str(other),))


def with_files(options, *names):
    return dataclasses.replace(options, train_files=tuple(map(str, names)))


def documents(tokens):
    """The ids of each document without EOS, sorted."""
    assert tokens[-1] == EOS
    parts = np.split(tokens, np.flatnonzero(tokens == EOS) + 1)[:-1]
    return sorted(part[:-1].tolist() for part in parts)


def expected_of(texts, tokenizer):
    return sorted(tokenizer(list(texts), add_special_tokens=False)["input_ids"])


def refuse(*args, **options):
    raise AssertionError("was tokenised again")


def test_documents_are_tokenised_and_end_with_eos(options, tokenizer, tmp_path):
    tokens = read_corpus(options, "train", tokenizer, EOS, tmp_path / "cache")
    assert documents(tokens) == expected_of(DOCUMENTS, tokenizer)
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.uint16
    assert not tokens.flags.writeable
    held_out = read_corpus(options, "validation", tokenizer, EOS, tmp_path / "cache")
    assert documents(held_out) == expected_of(["blue cat"], tokenizer)
    both = with_files(options, *options.train_files, *options.validation_files)
    tokens = read_corpus(both, "train", tokenizer, EOS, tmp_path / "cache")
    assert documents(tokens) == expected_of([*DOCUMENTS, "blue cat"], tokenizer)


@pytest.mark.parametrize("characters", [1, 20])
def test_the_size_of_a_batch_of_text_changes_nothing(
    options, tokenizer, tmp_path, monkeypatch, characters
):
    whole = read_corpus(options, "train", tokenizer, EOS, tmp_path / "cache")
    monkeypatch.setattr(module, "_CHUNK_CHARACTERS", characters)
    parts = read_corpus(options, "train", tokenizer, EOS, tmp_path / "other")
    np.testing.assert_array_equal(parts, whole)


def test_documents_are_shuffled_but_not_their_lines(options, tokenizer, tmp_path):
    path = tmp_path / "many.txt"
    texts = [f"blue {number}\ncat {number}" for number in range(200)]
    path.write_text("\n\n".join(texts))
    tokens = read_corpus(with_files(options, path), "train", tokenizer, EOS, tmp_path / "cache")
    text = tokenizer.decode(tokens).replace(" ", "")
    order = [int(part.split("cat")[1]) for part in text.split("</s>")[:-1]]
    assert text == "".join(f"blue{number}cat{number}</s>" for number in order)
    assert sorted(order) == list(range(200))
    assert np.abs(np.corrcoef(order, range(200))[0, 1]) < 0.3
    again = read_corpus(with_files(options, path), "train", tokenizer, EOS, tmp_path / "other")
    np.testing.assert_array_equal(again, tokens)


def test_many_ids_take_four_bytes(options, tokenizer, tmp_path):
    tokenizer.add_tokens([f"word{number}" for number in range(2**16)])
    path = tmp_path / "many.txt"
    path.write_text("word65535\nblue")
    tokens = read_corpus(with_files(options, path), "train", tokenizer, EOS, tmp_path / "cache")
    assert tokens.dtype == np.int32
    assert tokens[0] == tokenizer.convert_tokens_to_ids("word65535") > 2**16


def test_kept_tokens_are_taken_again(options, tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    first = read_corpus(options, "train", tokenizer, EOS, folder)
    monkeypatch.setattr(module, "_tokenize", refuse)
    again = read_corpus(options, "train", tokenizer, EOS, folder)
    np.testing.assert_array_equal(again, first)
    other_tokenizer = tokenizer_in(tmp_path / "next", ["film"])
    for arguments in ((other_tokenizer, EOS), (tokenizer, 0)):
        with pytest.raises(AssertionError, match="again"):
            read_corpus(options, "train", *arguments, folder)
    with open(options.train_files[0], "a") as file:
        file.write("!")
    with pytest.raises(AssertionError, match="again"):
        read_corpus(options, "train", tokenizer, EOS, folder)


@pytest.mark.parametrize("damage", ["one byte", "cut", "empty", "zeros"])
def test_damaged_tokens_are_made_anew(options, tokenizer, tmp_path, damage):
    folder = tmp_path / "cache"
    tokens = read_corpus(options, "train", tokenizer, EOS, folder)
    expected = tokens.tolist()
    del tokens  # its file may not be cut while it is mapped
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    damaged = {
        "one byte": whole[:30] + bytes([whole[30] ^ 1]) + whole[31:],
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "zeros": bytes(1000),
    }
    path.write_bytes(damaged[damage])
    assert read_corpus(options, "train", tokenizer, EOS, folder).tolist() == expected
    assert path.read_bytes() == whole


def test_unfinished_files_go_when_they_are_old(options, tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "cache"

    def fail(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            read_corpus(options, "train", tokenizer, EOS, folder)
    assert not any(folder.iterdir())
    young, old = folder / ".a.corpus.1.x.tmp", folder / ".b.corpus.2.y.order.tmp"
    for path in (young, old):
        path.write_bytes(b"")
    os.utime(old, (time.time() - 1e6,) * 2)
    read_corpus(options, "train", tokenizer, EOS, folder)
    assert young.exists()
    assert not old.exists()


def test_tfds_examples_are_documents(tokenizer, tmp_path, monkeypatch):
    class Source:
        def __init__(self, name, data_dir):
            assert (name, data_dir) == ("c4/en:3.0.1", "data")

        def check(self):
            pass

        def fingerprint(self, split):
            return f"fingerprint of {split}"

        def split(self, split):
            texts = {"train[:5%]": DOCUMENTS[0].replace(". ", ".\n\n"), "validation": "blue cat"}
            return [{"text": texts[split]}, {"text": " "}, {"text": "not good"}]

    monkeypatch.setattr(module, "TfdsSource", Source)
    options = CorpusOptions(tfds="c4/en:3.0.1", tfds_split="train[:5%]", data_dir="data")
    for split, text in (("train", DOCUMENTS[0]), ("validation", "blue cat")):
        tokens = read_corpus(options, split, tokenizer, EOS, tmp_path / "cache")
        assert documents(tokens) == expected_of([text, "not good"], tokenizer)
    monkeypatch.setattr(Source, "split", lambda self, split: [{"label": 1}])
    with pytest.raises(UserError, match=r'no "text", but label'):
        read_corpus(options, "train", tokenizer, EOS, tmp_path / "other")
    monkeypatch.setattr(Source, "split", lambda self, split: [])
    with pytest.raises(UserError, match=r"no text in the split train\[:5%\] of c4/en"):
        read_corpus(options, "train", tokenizer, EOS, tmp_path / "other")


def test_mistakes_are_told(options, tokenizer, tmp_path):
    def read(name, folder="cache"):
        return read_corpus(
            with_files(options, tmp_path / name), "train", tokenizer, EOS, tmp_path / folder
        )

    check_corpus(options)
    with pytest.raises(UserError, match=r"no text file .*missing\.txt"):
        check_corpus(with_files(options, tmp_path / "missing.txt"))
    with pytest.raises(UserError, match=r"no text file .*missing\.txt"):
        check_corpus(dataclasses.replace(options, validation_files=("missing.txt",)))
    (tmp_path / "empty.txt").write_bytes(b" \n\n\n")
    (tmp_path / "latin.txt").write_bytes("Straße".encode("latin-1"))
    with pytest.raises(UserError, match=r"There is no text in .*empty\.txt"):
        read("empty.txt")
    with pytest.raises(UserError, match=r"latin\.txt is not UTF-8"):
        read("latin.txt")
    assert not any((tmp_path / "cache").iterdir())
    with pytest.raises(UserError, match="cannot be kept"):
        read("other.txt", folder="text.txt")
