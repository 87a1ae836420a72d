"""Tokenisation and truncation of any text, by three kinds of small tokenizers."""

import types
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import repeatable

from softprompt_jax.data import (
    encode_choices,
    encode_inputs,
    encode_targets,
    tokenize_pairs,
)
from softprompt_jax.data.tokenization import pad_rows
from softprompt_jax.errors import UserError

KINDS = ("byte_bpe", "t5_like", "llama_like")
EOS = {"byte_bpe": 0, "t5_like": 1, "llama_like": 1}
CHARACTERS = st.sampled_from("abegnoty .,:!?'\n\t") | st.characters(exclude_categories=["Cs"])
TEXTS = st.lists(
    st.sampled_from(["a", " good", " movie", "positive", "\n", "  ", " review:", "."])
    | st.text(CHARACTERS, max_size=4),
    max_size=10,
).map("".join)
LIMITS = st.integers(1, 12)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    config = types.SimpleNamespace(
        eos_ids=(EOS[request.param],), is_encoder_decoder=request.param == "t5_like"
    )
    return request.param, request.getfixturevalue(request.param), config


def own_ids(kind, text):
    """What the tokenizer makes of a whole text, and how many special ids begin and end it."""
    name, tokenizer, _ = kind
    ids = tokenizer(text)["input_ids"]
    if name == "llama_like":  # <s> … </s>, of which a causal model reads on
        return ids[:-1], 1, 0
    return ids, 0, int(name == "t5_like")


def read_as(kind, text):
    return text if kind[0] == "t5_like" else text.rstrip(" ")


@repeatable(120)
@given(text=TEXTS, limit=LIMITS, truncate=st.sampled_from(["end", "start"]))
def test_an_input_is_the_tokenizers_own_ids_cut_at_one_end(kind, text, limit, truncate):
    whole, front, end = own_ids(kind, read_as(kind, text))
    encode = partial(encode_inputs, [text], kind[1], kind[2], truncate=truncate)
    if not whole:
        with pytest.raises(UserError, match="no tokens"):
            encode(limit)
        return
    assert encode(None) == ([whole], 0)
    room = limit - front - end
    body = whole[front : len(whole) - end]
    if len(body) <= room:
        assert encode(limit) == ([whole], 0)
    elif room < 1:
        with pytest.raises(UserError, match=f"max_input_length is {limit}, which leaves no room"):
            encode(limit)
    else:
        kept = body[:room] if truncate == "end" else body[len(body) - room :]
        assert encode(limit) == ([[*whole[:front], *kept, *whole[len(whole) - end :]]], 1)
        assert len(encode(limit)[0][0]) == limit


# As the ends of templates are: they part from the text before them.
CUES = st.sampled_from(["\nsentiment:", " is it good?", "\n\nAnswer: ", " intent:", " ."])


@repeatable(120)
@given(text=TEXTS, cue=CUES, limit=LIMITS, has_cue=st.booleans())
def test_the_cue_stays_whatever_is_cut(kind, text, cue, limit, has_cue):
    _, tokenizer, config = kind
    whole_text = text + cue if has_cue else text
    ends_so = read_as(kind, whole_text).endswith(read_as(kind, cue))
    assume(ends_so == has_cue)
    whole, front, end = own_ids(kind, read_as(kind, whole_text))
    assume(whole)
    room = limit - front - end
    # What the cue is behind any other text.
    alone, _, _ = own_ids(kind, "x")
    asked, _, _ = own_ids(kind, read_as(kind, "x" + cue))
    content = len(asked) - len(alone)
    encode = partial(encode_inputs, [whole_text], tokenizer, config, limit, keep_suffix=cue)
    if len(whole) > limit and (room < 1 or (has_cue and content >= room)):
        with pytest.raises(UserError, match=f"max_input_length is {limit}"):
            encode()
        return
    (ids,), cut = encode()
    assert cut == (len(whole) > limit)
    if not cut:
        assert ids == whole
    elif not has_cue:
        assert ids == [*whole[: front + room], *whole[len(whole) - end :]]
    else:
        assert len(ids) == limit
        # A beginning of the text, then the cue, then what stands behind every text.
        start = front + room - content
        assert ids[:start] == whole[:start]
        assert ids[start:] == asked[len(asked) - end - content :]


@repeatable(80)
@given(
    pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6),
    limits=st.tuples(LIMITS, LIMITS),
)
def test_a_split_is_its_rows_one_by_one(kind, pairs, limits):
    _, tokenizer, config = kind
    assume(limits[0] > 1 and all(own_ids(kind, read_as(kind, text))[0] for text, _ in pairs))
    split = tokenize_pairs(pairs, tokenizer, config, *limits)
    assert len(split) == len(pairs)
    cut_inputs = cut_targets = 0
    for row, (text, target) in enumerate(pairs):
        (ids,), cut = encode_inputs([text], tokenizer, config, limits[0])
        start, end = split.input_offsets[row : row + 2]
        assert split.inputs[start:end].tolist() == ids
        assert 1 <= len(ids) <= limits[0]
        cut_inputs += cut
        (whole,) = encode_targets([target], tokenizer, config)
        start, end = split.target_offsets[row : row + 2]
        ids = split.targets[start:end].tolist()
        # A target ends with its end of sequence, cut or not, and has no other.
        assert ids == [*whole[: limits[1] - 1], config.eos_ids[0]]
        assert ids.count(config.eos_ids[0]) == 1
        cut_targets += len(whole) + 1 > limits[1]
    assert (split.truncated_inputs, split.truncated_targets) == (cut_inputs, cut_targets)


@repeatable(120)
@given(text=TEXTS, target=TEXTS)
def test_input_and_target_are_the_text_of_both(kind, text, target):
    name, tokenizer, config = kind
    assume(own_ids(kind, read_as(kind, text))[0])
    (inputs,), _ = encode_inputs([text], tokenizer, config)
    (targets,) = encode_targets([target], tokenizer, config)
    if name == "t5_like":
        assert [*targets, 1] == tokenizer(target)["input_ids"]
        return
    said = target.strip()
    # The target has the same ids whatever the input is, and whatever white space is around it.
    assert encode_targets([f"\n {said}  "], tokenizer, config) == [targets]
    whole, _, _ = own_ids(kind, f"{text.rstrip(' ')} {said}")
    if name == "byte_bpe" and said:
        assert inputs + targets == whole
        assert tokenizer.decode(targets, clean_up_tokenization_spaces=False) == f" {said}"
    # SentencePiece makes one space of all that would stand between them.
    if name == "llama_like" and said and text.strip() and not text[-1].isspace():
        assert inputs + targets == whole


@repeatable(120)
@given(choices=st.lists(TEXTS | st.sampled_from(["good", "good enough"]), min_size=1, max_size=5))
def test_no_choice_begins_another(kind, choices):
    _, tokenizer, config = kind
    plain = encode_targets(choices, tokenizer, config)
    if [] in plain or len(set(map(tuple, plain))) < len(plain):
        with pytest.raises(UserError, match=r"no tokens|same tokens"):
            encode_choices(choices, tokenizer, config)
        return
    ids = encode_choices(choices, tokenizer, config)
    assert ids in (plain, [[*row, config.eos_ids[0]] for row in plain])
    for i, one in enumerate(ids):
        for j, other in enumerate(ids):
            assert i == j or other[: len(one)] != one


@repeatable(100)
@given(st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=5))
def test_padded_rows(rows):
    ids, mask = pad_rows(rows)
    assert (ids.dtype, mask.dtype) == (np.int32, np.bool_)
    assert ids.shape == mask.shape == (len(rows), max(map(len, rows)))
    for own, own_mask, row in zip(ids, mask, rows, strict=True):
        assert own[own_mask].tolist() == row
        assert own_mask.tolist() == sorted(own_mask.tolist(), reverse=True)
        assert not own[~own_mask].any()
