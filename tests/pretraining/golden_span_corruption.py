"""What t5 0.9.4 makes of token streams, and how it was asked.

`from_t5()` computes GOLDEN anew where t5 is installed. It was recorded with t5 0.9.4, seqio 0.0.20
and tensorflow-cpu 2.21.0 in November 2026 by

    python tests/pretraining/golden_span_corruption.py

with the packages stubbed that t5 imports and these functions do not use. Tokens are 100, 101, …;
the vocabulary has 32,100 ids, of which the last 100 are sentinels.
"""

import collections
import json
import types
from typing import Any

import numpy as np

VOCABULARY = types.SimpleNamespace(vocab_size=32100)
INPUTS_LENGTHS = (3, 9, 10, 64, 128, 172, 200, 256, 316, 512, 676, 1024)
LENGTHS = (*range(1, 21), 30, 50, 70, 110, 141, 190, 284, 350, 390, 568, 750, 1000)
EXAMPLES = ((1, 7), (2, 7), (12, 1), (40, 2), (40, 3), (64, 4))  # length, seed
MASK_LENGTH, MASKS = 284, 400
CHUNK, CUTS = 17, 800


def from_t5() -> dict[str, Any]:
    """Asks t5; see GOLDEN for what."""
    import tensorflow as tf
    from t5.data import preprocessors

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32), tf.TensorSpec([2], tf.int32)])
    def draw(length: Any, seed: Any) -> Any:
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
        return preprocessors.random_spans_noise_mask(length, 0.15, seeds, 3.0)

    def mask(length: int, seed: int) -> np.ndarray:
        return draw(length, [seed, 0]).numpy()

    lengths = {
        inputs: preprocessors.random_spans_helper(
            inputs_length=inputs,
            noise_density=0.15,
            mean_noise_span_length=3.0,
            extra_tokens_per_span_inputs=1,
            extra_tokens_per_span_targets=1,
        )
        for inputs in INPUTS_LENGTHS
    }
    examples = []
    for length, seed in EXAMPLES:
        noise = mask(length, seed)
        tokens = tf.range(100, 100 + length)
        inputs, targets = (
            replace(tokens, noise, VOCABULARY, None).numpy().tolist()
            for replace in (
                preprocessors.noise_span_to_unique_sentinel,
                preprocessors.nonnoise_span_to_unique_sentinel,
            )
        )
        examples.append([span_lengths(noise), inputs, targets])
    masks = np.stack([mask(MASK_LENGTH, seed) for seed in range(MASKS)])
    cuts = [
        int(preprocessors.random_prefix_noise_mask(CHUNK, 0.5, [[seed, 0]]).numpy().sum())
        for seed in range(CUTS)
    ]
    return {
        "lengths": {inputs: list(pair) for inputs, pair in lengths.items()},
        "counts": {
            length: [int(noise.sum()), len(span_lengths(noise)) // 2]
            for length in LENGTHS
            for noise in [mask(length, 0)]
        },
        "examples": examples,
        **statistics(masks),
        "cuts": [cuts.count(cut) for cut in range(CHUNK + 1)],
    }


def span_lengths(mask: np.ndarray) -> list[int]:
    """The lengths of text and noise in turn, text first."""
    changes = np.flatnonzero(np.diff(mask)) + 1
    return np.diff([0, *changes, len(mask)]).tolist()


def statistics(masks: np.ndarray) -> dict[str, list[int]]:
    """How long spans are and where noise is, counted over masks of one length.

    The n-th number of "text_spans" and "noise_spans" counts spans of n + 1 tokens, the last one
    longer spans too; "noise_places" counts noise tokens in tenths of the sequence.
    """
    text, noise = collections.Counter(), collections.Counter()
    for mask in masks:
        spans = span_lengths(mask)
        text.update(min(length, 40) for length in spans[::2])
        noise.update(min(length, 10) for length in spans[1::2])
    return {
        "text_spans": [text[length] for length in range(1, 41)],
        "noise_spans": [noise[length] for length in range(1, 11)],
        "noise_places": [int(part.sum()) for part in np.array_split(masks, 10, axis=1)],
    }


# lengths: inputs_length → raw tokens, targets_length. counts: length → noise tokens, noise spans.
# examples: span lengths of the mask, inputs, targets (no EOS yet). cuts: how often a chunk was cut
# behind its n-th token.
# fmt: off
GOLDEN: dict[str, Any] = {
    "lengths": {3: [2, 1], 9: [9, 2], 10: [10, 4], 64: [70, 14], 128: [141, 29], 172: [190, 38],
        200: [221, 45], 256: [284, 58], 316: [350, 70], 512: [568, 114], 676: [750, 150],
        1024: [1137, 229]},
    "counts": {1: [0, 0], 2: [1, 1], 3: [1, 1], 4: [1, 1], 5: [1, 1], 6: [1, 1], 7: [1, 1], 8:
        [1, 1], 9: [1, 1], 10: [2, 1], 11: [2, 1], 12: [2, 1], 13: [2, 1], 14: [2, 1], 15:
        [2, 1], 16: [2, 1], 17: [3, 1], 18: [3, 1], 19: [3, 1], 20: [3, 1], 30: [4, 1],
        50: [8, 3], 70: [10, 3], 110: [16, 5], 141: [21, 7], 190: [29, 10], 284: [43, 14],
        350: [53, 18], 390: [59, 20], 568: [85, 28], 750: [113, 38], 1000: [150, 50]},
    "examples": [[[1], [100], [32099]], [[1, 1], [100, 32099], [32099, 101]], [[10, 2], [100, 101,
        102, 103, 104, 105, 106, 107, 108, 109, 32099], [32099, 110, 111]], [[28, 2, 6,
        4], [100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 114,
        115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 32099, 130, 131,
        132, 133, 134, 135, 32098], [32099, 128, 129, 32098, 136, 137, 138, 139]], [[27,
        4, 7, 2], [100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113,
        114, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126, 32099, 131, 132,
        133, 134, 135, 136, 137, 32098], [32099, 127, 128, 129, 130, 32098, 138, 139]],
        [[33, 1, 14, 2, 7, 7], [100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110,
        111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126,
        127, 128, 129, 130, 131, 132, 32099, 134, 135, 136, 137, 138, 139, 140, 141, 142,
        143, 144, 145, 146, 147, 32098, 150, 151, 152, 153, 154, 155, 156, 32097], [32099,
        133, 32098, 148, 149, 32097, 157, 158, 159, 160, 161, 162, 163]]],
    "text_spans": [307, 291, 283, 288, 261, 221, 217, 193, 211, 188, 177, 143, 186, 150, 148, 137,
        117, 121, 99, 127, 121, 90, 82, 83, 88, 63, 76, 57, 58, 67, 47, 58, 56, 42, 36,
        47, 47, 46, 30, 541],
    "noise_spans": [1742, 1256, 820, 566, 427, 275, 197, 127, 67, 123],
    "noise_places": [1450, 1765, 1592, 1752, 1583, 1580, 1717, 1662, 1614, 2485],
    "cuts": [0, 57, 50, 62, 49, 54, 48, 39, 49, 38, 56, 46, 51, 52, 54, 52, 43, 0],
}
# fmt: on

if __name__ == "__main__":
    print(json.dumps(from_t5()))
