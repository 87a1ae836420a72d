"""T5's pre-training examples, made of token ids: span corruption, and prefix LM for LM adaptation.

Everything is NumPy, works on whole batches and is a function of its arguments; what is random is
drawn from the `numpy.random.Generator` that is handed in. Ids are any integer dtype and keep it.

Nothing here belongs to the variant "span corruption + sentinel" of the paper's figure 3(c): its
pre-training is plain span corruption, and it is the targets of the downstream task that begin with
the first sentinel.

References:
    T5 (Raffel et al. 2020), sections 3.1.4 and 3.3; Lester et al. 2021, sections 2.2 and 3.2. The
    rules are those of the functions of the same names in t5 0.9.4.
"""

import numpy as np

NOISE_DENSITY = 0.15  # of all tokens
MEAN_SPAN_LENGTH = 3.0  # tokens


def lengths(
    inputs_length: int,
    noise_density: float = NOISE_DENSITY,
    mean_span_length: float = MEAN_SPAN_LENGTH,
) -> tuple[int, int]:
    """The raw tokens that fill an input, and how long their target is.

    Args:
        inputs_length: tokens that an input may have, sentinels and EOS included; at least 3.
        noise_density: share of the tokens that are noise.
        mean_span_length: of a span of noise, in tokens.

    Returns:
        The largest number of raw tokens whose input is no longer than `inputs_length`, and the
        length of their target, sentinels and EOS included. `corrupt` gives these very lengths, with
        T5's density and spans an input of exactly `inputs_length`.

    References:
        `random_spans_helper` of t5. It rounds other than t5's masks do at some lengths (of up to
        1,024 with T5's density and spans: 3 to 9, 172, 316, 352, 604, 640, 676, 712 and 748), where
        t5 then cuts the end off; here both round as the masks do. Its exception for a density of
        0.5 is left out.
    """
    if inputs_length < 3:
        raise ValueError(f"inputs_length {inputs_length}")

    def lengths_of(tokens: int) -> tuple[int, int]:
        noise, spans = _counts(tokens, noise_density, mean_span_length)
        return tokens - noise + spans + 1, noise + spans + 1

    tokens = 2
    while lengths_of(tokens + 1)[0] <= inputs_length:
        tokens += 1
    return tokens, lengths_of(tokens)[1]


def random_spans_noise_mask(
    length: int,
    generator: np.random.Generator,
    noise_density: float = NOISE_DENSITY,
    mean_span_length: float = MEAN_SPAN_LENGTH,
    rows: int | None = None,
) -> np.ndarray:
    """Which tokens are noise: as many spans of noise as of text, in turn, text first.

    The numbers of noise tokens and of spans follow from the length alone; all masks that have them
    are equally likely. So a mask ends with noise.

    Args:
        length: of the sequence, in tokens.
        generator: of the span lengths.
        noise_density: share of the tokens that are noise.
        mean_span_length: of a span of noise, in tokens.
        rows: how many masks, drawn at once; None: one.

    Returns:
        bool `[length]`, or `[rows, length]`.

    References:
        `random_spans_noise_mask` of t5, without `random_roll`.
    """
    count = 1 if rows is None else rows
    noise, spans = _counts(length, noise_density, mean_span_length)
    long = max(length, 2)  # one token alone is cut from a text of two, and is no noise
    # A span of text and the span of noise after it, and so on: [count, 2 * spans].
    spans_lengths = np.stack(
        [
            _random_segments(count, long - noise, spans, generator),
            _random_segments(count, noise, spans, generator),
        ],
        axis=2,
    ).reshape(count, -1)
    starts = np.cumsum(spans_lengths, axis=1)[:, :-1]
    changes = np.zeros((count, long), np.int8)
    np.put_along_axis(changes, starts, 1, axis=1)
    mask = np.logical_xor.accumulate(changes.astype(bool), axis=1)[:, :length]
    return mask[0] if rows is None else mask


def corrupt(
    tokens: np.ndarray, mask: np.ndarray, sentinel_ids: np.ndarray, eos_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs in which sentinels stand for the noise, and targets that tell the noise.

    The n-th span of noise becomes the n-th sentinel of the input; in the target the n-th span of
    text does. Text comes first, so with A, B, C for sentinels "we hold these truths to be self
    evident" may become "we hold A to be B" → "A these truths B self evident": no sentinel ends the
    target. Both end with EOS.

    Args:
        tokens: ids `[..., length]`.
        mask: bool `[..., length]`, true for noise; every row has as many noise tokens and as many
            spans of each kind as the others, as those of `random_spans_noise_mask` have.
        sentinel_ids: in the order of their use, T5's `<extra_id_0>` with the highest id first.
        eos_id: the id of `</s>`.

    Returns:
        inputs `[..., inputs_length]` and targets `[..., targets_length]`, of the tokens' dtype.

    Raises:
        ValueError: rows of different lengths would come out, or there are too few sentinels.

    References:
        `noise_span_to_unique_sentinel` and `nonnoise_span_to_unique_sentinel` of t5, which give
        out ordinary ids where they run out of sentinels; and seqio's `append_eos`.
    """
    inputs = _with_sentinels(tokens, mask, sentinel_ids, eos_id)
    targets = _with_sentinels(tokens, ~mask, sentinel_ids, eos_id)
    return inputs, targets


def prefix_lm(
    tokens: np.ndarray, generator: np.random.Generator, eos_id: int, pad_id: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cuts texts in two at random: the first part is the input, the rest the target.

    t5's task `c4_v220_prefix_lm`, of which LM-adapted T5 is made, cuts a document into chunks one
    token shorter than an input (511 for T5; the last chunk of a document is what is left of it, and
    documents are not joined), puts the first 1 to length - 1 tokens of a chunk into the input, all
    these numbers equally likely, the rest into the target, and EOS behind both. So it is here, for
    chunks of one length; which text they are of is the caller's choice.

    Args:
        tokens: ids `[..., length]`, at least 2 to a row.
        generator: of the cuts.
        eos_id: the id of `</s>`.
        pad_id: what fills the rows.

    Returns:
        inputs and targets, both `[..., length]` of the tokens' dtype, padded on the right, and
        their lengths, both int64 `[...]`, EOS included: 2 to `length`, together `length + 2`.

    References:
        `prefix_lm` with `random_prefix_noise_mask` of t5.
    """
    length = tokens.shape[-1]
    if length < 2:
        raise ValueError(f"a chunk of {length} tokens has no two parts")
    prefix = generator.integers(1, length, size=(*tokens.shape[:-1], 1))
    place = np.arange(length)
    ended = np.concatenate([tokens, np.full_like(tokens[..., :1], eos_id)], axis=-1)
    inputs = np.where(place < prefix, tokens, np.where(place == prefix, eos_id, pad_id))
    rest = np.take_along_axis(ended, np.minimum(place + prefix, length), axis=-1)
    targets = np.where(place + prefix <= length, rest, pad_id)
    inputs, targets = (each.astype(tokens.dtype, copy=False) for each in (inputs, targets))
    return inputs, targets, prefix[..., 0] + 1, length + 1 - prefix[..., 0]


def _counts(length: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
    """How many tokens of noise, and how many spans, a text of this length has.

    Rounded in float32 and ties to even, as TensorFlow does it.
    """
    if not 0 < noise_density < 1 or mean_span_length < 1:
        raise ValueError(f"noise_density {noise_density}, mean_span_length {mean_span_length}")
    length = max(length, 2)
    noise = int(np.round(np.float32(length) * np.float32(noise_density)))
    noise = min(max(noise, 1), length - 1)
    spans = int(np.round(np.float32(noise) / np.float32(mean_span_length)))
    return noise, max(spans, 1)


def _random_segments(
    rows: int, items: int, segments: int, generator: np.random.Generator
) -> np.ndarray:
    """Lengths of segments that part the items, int64 `[rows, segments]`, none of them empty.

    All ways to part them are equally likely: `segments - 1` of the `items - 1` gaps are cut, those
    with the smallest random numbers.
    """
    if segments > items:
        raise ValueError(f"{items} tokens cannot be parted into {segments} spans")
    gaps = np.argsort(generator.random((rows, items - 1)), axis=1)[:, : segments - 1]
    cuts = np.empty((rows, segments + 1), np.int64)
    cuts[:, 0] = 0
    cuts[:, 1:-1] = np.sort(gaps, axis=1) + 1
    cuts[:, -1] = items
    return np.diff(cuts, axis=1)


def _with_sentinels(
    tokens: np.ndarray, mask: np.ndarray, sentinel_ids: np.ndarray, eos_id: int
) -> np.ndarray:
    """The tokens with each masked span replaced by its sentinel, and EOS behind."""
    if tokens.shape != mask.shape:
        raise ValueError(f"tokens {tokens.shape}, mask {mask.shape}")
    follows = np.zeros_like(mask)
    follows[..., 1:] = mask[..., 1:] & mask[..., :-1]
    first = mask & ~follows
    number = np.cumsum(first, axis=-1)  # of the span, counted from 1
    if number.size and number.max() > len(sentinel_ids):
        raise ValueError(f"{number.max()} spans, but {len(sentinel_ids)} sentinels")
    sentinels = np.asarray(sentinel_ids, tokens.dtype)[np.maximum(number, 1) - 1]
    kept = ~follows
    sizes = kept.sum(axis=-1)
    if sizes.size and sizes.min() != sizes.max():
        raise ValueError("the masks leave rows of different lengths")
    shortened = np.where(first, sentinels, tokens)[kept].reshape(*tokens.shape[:-1], -1)
    end = np.full_like(shortened[..., :1], eos_id, shape=(*tokens.shape[:-1], 1))
    return np.concatenate([shortened, end], axis=-1)
