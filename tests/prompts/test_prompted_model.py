"""`target_logits` is the part of the full logits that predicts the targets."""

import jax
import numpy as np
import pytest
from flax import nnx
from lively_models import compiled, make_lively, pad, random_prompt, random_rows, row_prompts

from softprompt_jax.models import load_model
from softprompt_jax.prompts.prompted_model import Prompt, PromptedModel, join, target_logits

VARIANTS = ("t5", "mistral", "gpt2")
INPUTS = random_rows((11, 3, 7))
TARGETS = random_rows((2, 4, 1), seed=1)
PROMPT = random_prompt(6)
PROMPTS = [PROMPT, random_prompt(2, seed=1), random_prompt(6, seed=2)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {v: load_model(str(make_lively(tmp_path_factory.mktemp("m"), v))) for v in VARIANTS}


@pytest.fixture(scope="module")
def batch():
    inputs, input_mask = pad(INPUTS, width=13)
    targets, target_mask = pad(TARGETS)
    return {
        "inputs": inputs,
        "input_mask": input_mask,
        "targets": targets,
        "target_mask": target_mask,
        "prompt_ids": np.zeros(len(INPUTS), np.int32),
    }


def full_logits(model, prompt) -> list[np.ndarray]:
    """For each row the logits that predict its targets, from `LanguageModel.logits`."""
    if model.is_encoder_decoder:
        ids, mask = pad(INPUTS)
        start = model.config.decoder_start_id
        decoder_ids, decoder_mask = pad([[start, *target[:-1]] for target in TARGETS])
        logits = np.asarray(model.logits(ids, mask, decoder_ids, prompt))
        return [row[m] for row, m in zip(logits, decoder_mask, strict=True)]
    texts = [[*i, *t] for i, t in zip(INPUTS, TARGETS, strict=True)]
    ids, mask = pad(texts, "left")
    logits = np.asarray(model.logits(ids, mask, prompt=prompt))
    return [row[-len(t) - 1 : -1] for row, t in zip(logits, TARGETS, strict=True)]


@pytest.mark.parametrize("kind", ["plain", "one prompt", "a prompt for each row"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_target_logits(models, batch, variant, kind):
    model = models[variant]
    if kind == "a prompt for each row":
        prompt = row_prompts(PROMPTS)
        expected = [full_logits(model, own)[i] for i, own in enumerate(PROMPTS)]
    else:
        prompt = PROMPT if kind == "one prompt" else None
        expected = full_logits(model, prompt)
    logits = compiled(target_logits, model, batch, prompt)
    assert logits.dtype == np.float32
    assert logits.shape == (3, 4, model.config.vocab_size)
    assert np.isfinite(logits).all()
    for row, want, mask in zip(logits, expected, batch["target_mask"], strict=True):
        np.testing.assert_allclose(row[mask], want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("prompt", [PROMPT, None], ids=["prompt", "plain"])
def test_the_module_does_the_same(models, batch, prompt):
    model = models["gpt2"]

    def from_module(module, batch):
        prompted = PromptedModel(module, prompt)
        return prompted.target_logits(batch)

    expected = compiled(target_logits, model, batch, prompt)
    np.testing.assert_array_equal(compiled(from_module, model, batch), expected)


def test_only_the_prompt_is_a_prompt(models):
    prompted = PromptedModel(models["gpt2"].module, jax.numpy.asarray(PROMPT))
    state = nnx.state(prompted, Prompt)
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [PROMPT.shape]
    np.testing.assert_array_equal(prompted.vectors, PROMPT)
    plain = PromptedModel(models["gpt2"].module, None)
    assert plain.vectors is None
    assert not jax.tree.leaves(nnx.state(plain, Prompt))


def test_join():
    inputs = np.asarray([[1, 2, 3], [4, 0, 0]], np.int32)
    targets = np.asarray([[7, 8, 9], [5, 6, 0]], np.int32)
    lengths = np.asarray([3, 1], np.int32)
    joined = np.asarray(join(inputs, lengths, targets))
    assert joined[0].tolist() == [1, 2, 3, 7, 8]
    assert joined[1, :3].tolist() == [4, 5, 6]
    assert np.asarray(join(inputs, lengths, targets[:, :1]))[0].tolist() == [1, 2, 3]
