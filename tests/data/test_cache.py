import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from softprompt_jax.data import TokenizedExamples
from softprompt_jax.data.cache import TokenCache, cache_key, tokenizer_fingerprint
from softprompt_jax.errors import UserError

KEY = "ab" * 32
EXTRA = {"references": [[["yes", "歌"], None, True], [["\ud83d"], [1, 2], False]], "n": 2.5}
ARRAYS = ("inputs", "input_offsets", "targets", "target_offsets")


@pytest.fixture
def examples(make_examples):
    made = make_examples([3, 1, 40, 7], [1, 2, 3, 4])
    return dataclasses.replace(made, truncated_inputs=2, truncated_targets=1)


@pytest.fixture
def cache(tmp_path):
    return TokenCache(tmp_path / "cache")


@pytest.fixture
def path(cache, examples):
    """Of the one file that the cache holds."""
    cache.save(KEY, examples, EXTRA)
    (path,) = cache.folder.iterdir()
    return path


def assert_same(loaded, examples, extra=EXTRA):
    assert loaded is not None
    assert loaded[1] == extra
    for name in ARRAYS:
        ours, theirs = getattr(loaded[0], name), getattr(examples, name)
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
        assert ours.flags.aligned
    assert loaded[0].truncated_inputs == examples.truncated_inputs
    assert loaded[0].truncated_targets == examples.truncated_targets
    assert len(loaded[0]) == len(examples)


@pytest.mark.parametrize("extra", [EXTRA, None, [], "\n" * 5, {"a": {"b": [1, None, "\x00"]}}])
def test_round_trip(cache, examples, extra):
    assert cache.load(KEY) is None
    assert not cache.folder.exists()
    cache.save(KEY, examples, extra)
    assert_same(cache.load(KEY), examples, extra)
    assert cache.load("cd" * 32) is None
    cache.save(KEY, examples.first(2), extra)
    again, _ = cache.load(KEY)
    assert len(again) == 2
    np.testing.assert_array_equal(again.inputs, examples.inputs[:4])
    assert len(list(cache.folder.iterdir())) == 1


def assert_damaged(cache, path):
    assert cache.load(KEY) is None
    assert not path.exists()


def test_truncated_anywhere(cache, path, examples):
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert_damaged(cache, path)
    path.write_bytes(whole + b"\0")
    assert_damaged(cache, path)
    cache.save(KEY, examples, EXTRA)
    assert path.read_bytes() == whole


def test_flipped_anywhere(cache, path):
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (0, 7):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            assert_damaged(cache, path)


def forge(path, change=lambda header: None, body=lambda body: body, magic=None):
    """Rewrites a file's parts and puts the right digest under them."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[24:32], "little")
    header = json.loads(whole[32 : 32 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    forged = (magic or whole[:24]) + len(text).to_bytes(8, "little") + text
    forged += body(whole[32 + length : -32])
    path.write_bytes(forged + hashlib.sha256(forged).digest())


def put(offset, value, dtype):
    def change(body):
        array = bytearray(body)
        array[offset : offset + dtype().nbytes] = dtype(value).tobytes()
        return bytes(array)

    return change


@pytest.mark.parametrize(
    "forgery",
    [
        {"change": lambda header: header.update(key="cd" * 32)},
        {"change": lambda header: header.update(rows=3)},
        {"change": lambda header: header.update(rows=-5)},
        {"change": lambda header: header.update(rows=2**62)},
        {"change": lambda header: header.update(rows="4")},
        {"change": lambda header: header.update(rows=4.5)},
        {"change": lambda header: header.update(input_tokens=50, target_tokens=11)},
        {"change": lambda header: header.update(input_tokens=-1, target_tokens=62)},
        {"change": lambda header: header.pop("extra")},
        {"change": lambda header: header.clear()},
        {"magic": b"softprompt-jax tokens 0\n"},
        {"body": lambda body: body[:-4]},
        {"body": lambda body: body + bytes(8)},
        {"body": put(0, 1, np.int64)},  # the first row does not start at 0
        {"body": put(8, 0, np.int64)},  # an empty row
        {"body": put(8, 1000, np.int64)},  # offsets that go down
        {"body": put(8, -1, np.int64)},
        {"body": put(32, 50, np.int64)},  # the last row does not end at the end
        {"body": put(40 + 32, 9, np.int64)},  # likewise in the targets
        {"body": put(80, -1, np.int32)},  # a negative id
        {"body": put(80 + 4 * 51, -7, np.int32)},
    ],
)
def test_content_that_does_not_fit_together(cache, path, examples, forgery):
    forge(path)
    assert_same(cache.load(KEY), examples)  # the forging itself is sound
    forge(path, **forgery)
    assert_damaged(cache, path)


def test_file_of_another_key(cache, path):
    other = path.with_name(path.name.replace(KEY, "cd" * 32))
    os.rename(path, other)
    assert cache.load("cd" * 32) is None
    assert not other.exists()


class Trap:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_foreign_files_are_never_executed(cache, path, examples, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "object.npz").open("wb") as file:
        np.savez(file, inputs=np.array([Trap()], object))
    pickled = pickle.dumps(Trap())
    foreign = [pickled, (tmp_path / "object.npz").read_bytes(), b"", b"{}", bytes(1000)]
    for content in foreign:
        path.write_bytes(content)
        assert_damaged(cache, path)
    # Even under a sound digest, in the place of the header or of the ids.
    cache.save(KEY, examples, EXTRA)
    start = path.read_bytes()[:24]
    for content in (pickled, b"[]", b"[" * 100_000, b"\xff", b"null", b"NaN"):
        forged = start + len(content).to_bytes(8, "little") + content + pickled
        path.write_bytes(forged + hashlib.sha256(forged).digest())
        assert_damaged(cache, path)
    assert not (tmp_path / "executed").exists()


def test_failures_of_the_disk(cache, path, examples, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    whole = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            UserError, match=r"cannot be kept in .*cache \(No space left on device\)"
        ):
            cache.save(KEY, examples.first(1), None)
    assert [each.name for each in cache.folder.iterdir()] == [path.name]
    assert path.read_bytes() == whole
    with pytest.raises(UserError, match="cannot be kept"):
        TokenCache(path).save(KEY, examples, None)
    assert TokenCache(path).load(KEY) is None
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"cached tokens .* cannot be read \(Is a directory\)"):
        cache.load(KEY)
    with pytest.raises(UserError, match="cannot be kept"):
        cache.save(KEY, examples, None)


def test_what_dead_writers_left_is_removed(cache, path, examples):
    left = {age: path.with_name(f".{'cd' * 32}.tokens.{age}.tmp") for age in (10, 90_000)}
    for age, file in left.items():
        file.write_bytes(b"half")
        os.utime(file, (time.time() - age,) * 2)
    cache.save(KEY, examples, EXTRA)
    assert left[10].exists()  # may be at work
    assert not left[90_000].exists()


WRITER = """
    import sys
    from pathlib import Path
    from softprompt_jax.data import TokenizedExamples
    from softprompt_jax.data.cache import TokenCache

    cache, key, value = TokenCache(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
    examples = TokenizedExamples.from_rows([[value] * 50] * 4000, [[value]] * 4000)
    print("ready", flush=True)
    while True:
        cache.save(key, examples, value)
"""


def test_writers_at_once_and_killed(cache):
    """Whatever is there at any moment is one of the writers' whole files."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(cache.folder), KEY, str(value)],
            stdout=subprocess.PIPE,
        )
        for value in (1, 2)
    ]
    seen = set()
    try:
        for writer in writers:
            assert writer.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 60
        reads = 0
        while (len(seen) < 2 or reads < 100) and time.monotonic() < deadline:
            loaded = cache.load(KEY)
            if loaded is None:
                assert not seen  # only before the first was written
                continue
            examples, value = loaded
            assert set(examples.inputs.tolist()) == set(examples.targets.tolist()) == {value}
            seen.add(value)
            reads += 1
        assert seen == {1, 2}
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.stdout.close()
    assert cache.load(KEY) is not None


def test_key_changes_with_each_part():
    parts = {"data": "abc", "labels": ["a", "b"], "length": 512, "prefix": False, "more": {"x": 1}}
    first = cache_key(**parts)
    assert len(first) == 64
    assert first == cache_key(**dict(reversed(parts.items())))
    changes = {
        "data": ["abd", "", None],
        "labels": [["b", "a"], ["a"], [["a", "b"]], "ab"],
        "length": [511, "512", 512.0],
        "prefix": [True, None, 0],
        "more": [{"x": 2}, {"y": 1}, {}],
    }
    keys = [cache_key(**parts | {name: v}) for name, values in changes.items() for v in values]
    keys += [cache_key(**{k: v for k, v in parts.items() if k != name}) for name in parts]
    assert len({first, *keys}) == 1 + len(keys)
    with pytest.raises(TypeError):
        cache_key(data=object())


def word_level(vocabulary, *, lower=False, template=None, **options):
    core = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit() if lower else pre_tokenizers.Whitespace()
    if template:
        core.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("</s>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", **options)


def test_tokenizer_fingerprint_is_of_what_decides_ids(byte_bpe, t5_like, llama_like):
    vocabulary = {"?": 0, "</s>": 1, "a": 2, "b": 3}
    tokenizer = word_level(vocabulary, pad_token="?")
    first = tokenizer_fingerprint(tokenizer)
    assert first == tokenizer_fingerprint(
        word_level(dict(reversed(vocabulary.items())), pad_token="?")
    )
    # Calls change its settings for padding and cutting, on which our ids do not depend.
    tokenizer(["a b a", "b"], padding=True, truncation=True, max_length=2)
    assert json.loads(tokenizer.backend_tokenizer.to_str())["truncation"] is not None
    assert first == tokenizer_fingerprint(tokenizer)
    more = word_level(vocabulary)
    more.add_tokens(["c"])
    others = [
        byte_bpe,
        t5_like,
        llama_like,
        word_level(vocabulary | {"a": 3, "b": 2}),
        word_level(vocabulary | {"c": 4}),
        word_level(vocabulary, lower=True),
        word_level(vocabulary, template="$A </s>"),
        word_level(vocabulary, split_special_tokens=True),
        more,
    ]
    assert len({first, *map(tokenizer_fingerprint, others)}) == 1 + len(others)


def test_fingerprint_of_a_tokenizer_in_python(tmp_path):
    tokenizer = ByT5Tokenizer()
    first = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "bcd"], padding=True)
    assert first == tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(ByT5Tokenizer())
    assert first != tokenizer_fingerprint(ByT5Tokenizer(extra_ids=3))
    tokenizer.add_tokens(["word"])
    assert first != tokenizer_fingerprint(tokenizer)


def test_a_million_rows_load_quickly(cache):
    lengths = np.full(1_000_000, 20)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(offsets[-1], dtype=np.int32) % 32_000
    examples = TokenizedExamples(ids, offsets, ids, offsets)
    cache.save(KEY, examples, None)
    start = time.perf_counter()
    loaded = cache.load(KEY)
    seconds = time.perf_counter() - start
    print(f"{seconds:.2f} s for {sum(getattr(examples, name).nbytes for name in ARRAYS)} bytes")
    assert_same(loaded, examples, None)
    assert seconds < 10  # about 0.3 s; the bound is for busy machines
