import time

import numpy as np
import pytest

from softprompt_jax.data import (
    TokenizedExamples,
    encode_choices,
    encode_inputs,
    encode_targets,
    tokenization,
    tokenize_pairs,
)
from softprompt_jax.data.tokenization import decode_answers, without_prefix
from softprompt_jax.errors import UserError
from softprompt_jax.tasks import get_task

TEXTS = ["A fun ride.", "It's 9 of 10!", "naïve — but\ngood", "what a mess ...", "x"]
TARGETS = ["positive", "negative", "9", "not good enough", "(a mess)"]


def row(examples, i):
    inputs = examples.inputs[examples.input_offsets[i] : examples.input_offsets[i + 1]]
    targets = examples.targets[examples.target_offsets[i] : examples.target_offsets[i + 1]]
    return inputs.tolist(), targets.tolist()


def test_causal_rows_are_what_the_whole_text_tokenises_to(byte_bpe, causal):
    pairs = list(zip(TEXTS, TARGETS, strict=True))
    examples = tokenize_pairs(pairs, byte_bpe, causal, 100, 100)
    assert len(examples) == len(pairs)
    for i, (text, target) in enumerate(pairs):
        inputs, targets = row(examples, i)
        assert inputs + targets == [*byte_bpe(f"{text} {target}")["input_ids"], 0]
        assert inputs == byte_bpe(text)["input_ids"]


def test_causal_sentencepiece_rows(llama_like, causal_sp):
    pairs = list(zip(TEXTS, TARGETS, strict=True))
    examples = tokenize_pairs(pairs, llama_like, causal_sp, 100, 100)
    for i, (text, target) in enumerate(pairs):
        inputs, targets = row(examples, i)
        # The tokenizer's own ids are <s> … </s>; the </s> comes after the target alone.
        assert inputs + targets == llama_like(f"{text} {target}")["input_ids"]
        assert inputs[0] == 3
        assert inputs.count(1) == 0
        assert targets.count(1) == 1


def test_t5_rows_are_the_tokenizers_own(t5_like, encoder_decoder):
    pairs = list(zip(TEXTS, TARGETS, strict=True))
    examples = tokenize_pairs(pairs, t5_like, encoder_decoder, 100, 100)
    for i, (text, target) in enumerate(pairs):
        assert row(examples, i) == (t5_like(text)["input_ids"], t5_like(target)["input_ids"])


def test_answers_end_at_their_end_of_sequence(byte_bpe, causal):
    """What pads the others has the id of an ordinary token here, and is no text."""
    good, bad = byte_bpe("good")["input_ids"], byte_bpe("bad film")["input_ids"]
    width = len(good) + len(bad) + 1
    rows = [[*good, causal.eos_ids[0], *bad], [*bad, *good[:1] * (width - len(bad))]]
    ended, whole = decode_answers(np.array(rows), byte_bpe, causal)
    assert ended == "good"
    assert whole == "bad film" + byte_bpe.decode(good[:1]) * (width - len(bad))


def test_answers_without_the_target_prefix():
    for answer in ("answer: good", "  answer: good ", "answer:good", "good"):
        assert without_prefix(answer, "answer: ") == "good"
    assert without_prefix(" good", "<extra_id_0> ") == without_prefix("good ", "") == "good"
    assert without_prefix("answer: answer: good", "answer: ") == "answer: good"


def test_the_fingerprint_is_of_every_row():
    examples = TokenizedExamples.from_rows([[1, 2], [3]], [[4], [5, 6]])
    assert (
        examples.fingerprint()
        == TokenizedExamples.from_rows([[1, 2], [3]], [[4], [5, 6]]).fingerprint()
    )
    shorter = TokenizedExamples.from_rows([[1, 2]], [[4]])
    assert examples.first(1).fingerprint() == shorter.fingerprint()
    others = (
        TokenizedExamples.from_rows([[1], [2, 3]], [[4], [5, 6]]),
        TokenizedExamples.from_rows([[1, 2], [3]], [[4], [5, 7]]),
    )
    assert len({each.fingerprint() for each in (examples, shorter, *others)}) == 4


def test_arrays(byte_bpe, causal):
    examples = tokenize_pairs([("a b c", "d"), ("e", "f g")], byte_bpe, causal, 100, 100)
    assert examples.inputs.dtype == examples.targets.dtype == np.int32
    assert examples.input_offsets.dtype == examples.target_offsets.dtype == np.int64
    assert examples.input_lengths.tolist() == np.diff(examples.input_offsets).tolist()
    assert examples.input_lengths.sum() == len(examples.inputs)
    assert examples.target_lengths.sum() == len(examples.targets)
    assert (examples.truncated_inputs, examples.truncated_targets) == (0, 0)


def test_spaces_between_input_and_target(byte_bpe, causal):
    """However the user writes the boundary, there is one space, and it is the target's."""
    plain = row(tokenize_pairs([("Answer:", "yes")], byte_bpe, causal, 100, 100), 0)
    for text, target in [("Answer: ", "yes"), ("Answer:", " yes"), ("Answer:  ", " yes\n")]:
        assert row(tokenize_pairs([(text, target)], byte_bpe, causal, 100, 100), 0) == plain
    # A line end is kept: it is part of what the user wrote.
    assert encode_inputs(["Answer:\n"], byte_bpe, causal)[0] == [byte_bpe("Answer:\n")["input_ids"]]


def test_target_falls_back_where_the_anchor_merges():
    """A tokenizer that joins the anchor with what follows: the target's own ids are taken."""

    def merging(texts, **_):
        return {"input_ids": [[7] if text.startswith(": ") else [len(text)] for text in texts]}

    config = type("C", (), {"eos_ids": (0,), "is_encoder_decoder": False})()
    assert encode_targets(["abc"], merging, config) == [[4]]


def test_end_of_sequence_is_there_once(byte_bpe, causal, t5_like, encoder_decoder):
    for tokenizer, config, eos in ((byte_bpe, causal, 0), (t5_like, encoder_decoder, 1)):
        pairs = [("a", "positive" + tokenizer.eos_token), ("a", ""), ("a", "positive")]
        examples = tokenize_pairs(pairs, tokenizer, config, 10, 10)
        assert row(examples, 0)[1] == row(examples, 2)[1]
        assert row(examples, 1)[1] == [eos]
        assert row(examples, 2)[1].count(eos) == 1


def test_truncation_keeps_special_tokens(t5_like, encoder_decoder, llama_like, causal_sp):
    text = "one two three four five six seven eight nine ten"
    for tokenizer, config in ((t5_like, encoder_decoder), (llama_like, causal_sp)):
        (whole,), cut = encode_inputs([text], tokenizer, config)
        assert cut == 0
        front = 0 if config.is_encoder_decoder else 1
        end = 1 - front
        body = whole[front : len(whole) - end]
        for limit in range(2, len(whole) + 1):
            kept = limit - 1
            (ids,), cut = encode_inputs([text], tokenizer, config, limit)
            assert ids == whole[:front] + body[:kept] + whole[len(whole) - end :]
            assert cut == (limit < len(whole))
            (ids,), _ = encode_inputs([text], tokenizer, config, limit, "start")
            assert ids == whole[:front] + body[len(body) - kept :] + whole[len(whole) - end :]
        with pytest.raises(UserError, match="max_input_length is 1"):
            encode_inputs([text], tokenizer, config, 1)


@pytest.mark.parametrize("kind", ["byte_bpe", "t5_like", "llama_like"])
def test_kept_suffix(kind, request):
    tokenizer = request.getfixturevalue(kind)
    config = request.getfixturevalue(
        {"byte_bpe": "causal", "t5_like": "encoder_decoder", "llama_like": "causal_sp"}[kind]
    )
    suffix = "\nsentiment:"
    text = "review: " + "A gorgeous, witty, seductive movie. " * 8 + suffix
    (whole,), _ = encode_inputs([text], tokenizer, config)
    for limit in range(30, len(whole) + 1):
        (ids,), _ = encode_inputs([text], tokenizer, config, limit, keep_suffix=suffix)
        assert len(ids) == limit
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        assert decoded.startswith("review: A")
        assert decoded.endswith("sentiment:")
    assert ids == whole
    with pytest.raises(UserError, match="every input keeps"):
        encode_inputs([text], tokenizer, config, 2, keep_suffix=suffix)
    # A text that does not end so, as a user's own may not, is simply cut.
    (ids,), _ = encode_inputs(["A fun ride"], tokenizer, config, 4, keep_suffix=suffix)
    assert len(ids) <= 4


def test_long_targets_are_cut_but_labels_are_not(byte_bpe, causal):
    target = "one two three four five six"
    examples = tokenize_pairs([("a", target), ("a", "x")], byte_bpe, causal, 10, 4)
    ids = encode_targets([target], byte_bpe, causal)[0]
    assert row(examples, 0)[1] == [*ids[:3], 0]
    assert examples.truncated_targets == 1
    with pytest.raises(UserError, match=r"The label 'one two.*max_target_length"):
        tokenize_pairs([("a", target)], byte_bpe, causal, 10, 4, labels=[target])


def test_empty_inputs(byte_bpe, causal, t5_like, encoder_decoder, llama_like, causal_sp):
    with pytest.raises(UserError, match=r"Input 1 .*no tokens"):
        tokenize_pairs([("a", "b"), ("", "b")], byte_bpe, causal, 10, 10)
    assert encode_inputs([""], t5_like, encoder_decoder) == ([[1]], 0)
    assert encode_inputs([""], llama_like, causal_sp) == ([[3]], 0)
    with pytest.raises(UserError, match="no examples"):
        tokenize_pairs([], byte_bpe, causal, 10, 10)


@pytest.mark.parametrize(("rows", "characters"), [(1, 2**20), (7, 2**20), (8192, 50), (30, 200)])
def test_chunks_change_nothing(byte_bpe, causal, monkeypatch, rows, characters):
    pairs = [(f"{TEXTS[i % 5]} {i}", f"{TARGETS[i % 5]} {i // 7}") for i in range(60)]
    lists = [
        encode_inputs([text for text, _ in pairs], byte_bpe, causal, 7, "start")[0],
        [
            [*ids[:3], 0]
            for ids in encode_targets([target for _, target in pairs], byte_bpe, causal)
        ],
    ]
    expected = TokenizedExamples.from_rows(*lists)
    monkeypatch.setattr(tokenization, "_CHUNK_ROWS", rows)
    monkeypatch.setattr(tokenization, "_CHUNK_CHARACTERS", characters)
    examples = tokenize_pairs(iter(pairs), byte_bpe, causal, 7, 4, "start")
    for name in ("inputs", "input_offsets", "targets", "target_offsets"):
        np.testing.assert_array_equal(getattr(examples, name), getattr(expected, name))
        assert getattr(examples, name).dtype == getattr(expected, name).dtype
    uncut = tokenize_pairs(pairs, byte_bpe, causal, 100, 100)
    assert examples.truncated_inputs == (uncut.input_lengths > 7).sum() > 0
    assert examples.truncated_targets == (uncut.target_lengths > 4).sum() > 0


def test_pairs_are_taken_a_chunk_at_a_time(byte_bpe, causal, monkeypatch):
    monkeypatch.setattr(tokenization, "_CHUNK_ROWS", 10)
    taken = 0

    def pairs():
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield ("a", "b") if taken != 25 else ("", "b")

    with pytest.raises(UserError, match=r"Input 24 \(counted from 0\) is '', which has no tokens"):
        tokenize_pairs(pairs(), byte_bpe, causal, 10, 10)
    assert taken == 30
    with pytest.raises(UserError, match="no examples"):
        tokenize_pairs(iter(()), byte_bpe, causal, 10, 10)


def test_choices(byte_bpe, causal, t5_like, encoder_decoder):
    for tokenizer, config, eos in ((byte_bpe, causal, 0), (t5_like, encoder_decoder, 1)):
        labels = ["negative", "positive"]
        assert encode_choices(labels, tokenizer, config) == encode_targets(
            labels, tokenizer, config
        )
        prefixed = encode_choices(["good", "good enough", "bad"], tokenizer, config)
        assert [ids[-1] for ids in prefixed] == [eos] * 3
        assert prefixed[1][: len(prefixed[0]) - 1] == prefixed[0][:-1]
        with pytest.raises(UserError, match="same tokens"):
            encode_choices(["good", "bad", "good"], tokenizer, config)
        with pytest.raises(UserError, match="no tokens"):
            encode_choices(["good", ""], tokenizer, config)
        with pytest.raises(UserError, match="no choices"):
            encode_choices([], tokenizer, config)


def test_trained_labels_are_the_scored_ones(byte_bpe, causal):
    """What a label is trained as and what it is scored as are the same ids."""
    labels = ("negative", "positive")
    examples = tokenize_pairs([("a", label) for label in labels], byte_bpe, causal, 9, 9)
    for i, ids in enumerate(encode_choices(labels, byte_bpe, causal)):
        assert row(examples, i)[1] == [*ids, 0]


def test_eight_thousand_rows_take_seconds(byte_bpe, causal):
    task = get_task("movie_reviews")
    pairs = [pair for example in task.split("train") for pair in task.text_pairs(example)]
    start = time.perf_counter()
    tokenize_pairs(pairs, byte_bpe, causal, 512, 32)
    assert time.perf_counter() - start < 10  # about 1 s; the bound is for busy machines
