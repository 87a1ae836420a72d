"""Scores of choices against sums of log-softmax over the full logits."""

import numpy as np
import pytest
from lively_models import compiled, make_lively, pad, random_prompt, random_rows, row_prompts

from softprompt_jax.data.tokenization import pad_rows
from softprompt_jax.inference.prompt_bank import make_bank, take_rows
from softprompt_jax.inference.scoring import choice_log_likelihoods
from softprompt_jax.models import load_model

VARIANTS = ("t5", "mistral", "gpt2")
INPUTS = random_rows((9, 3, 6))
PROMPTS = [random_prompt(6), random_prompt(2, seed=1), random_prompt(6, seed=2)]
CHOICES = {
    "one token": [[5], [90], [30]],
    "several tokens": [[5, 6, 7], [90], [30, 31]],
}
# Causal models treat single tokens in a way of their own.
CASES = [("t5", "several tokens"), *((v, kind) for v in ("mistral", "gpt2") for kind in CHOICES)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {v: load_model(str(make_lively(tmp_path_factory.mktemp("m"), v))) for v in VARIANTS}


def brute_force(model, choices, prompt) -> np.ndarray:
    """[rows, choices] from one row for each text and choice, unabridged logits and float64."""
    pairs = [(text, choice) for text in INPUTS for choice in choices]
    if model.is_encoder_decoder:
        ids, mask = pad([text for text, _ in pairs])
        start = model.config.decoder_start_id
        decoder_ids, _ = pad([[start, *choice] for _, choice in pairs])
        logits = model.logits(ids, mask, decoder_ids, prompt)
        first = [0] * len(pairs)
    else:
        ids, mask = pad([text + choice for text, choice in pairs])
        logits = model.logits(ids, mask, prompt=prompt)
        first = [len(text) - 1 for text, _ in pairs]
    logits = np.asarray(logits, np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    sums = [
        sum(log_probs[row, start + step, token] for step, token in enumerate(choice))
        for row, (start, (_, choice)) in enumerate(zip(first, pairs, strict=True))
    ]
    return np.reshape(sums, (len(INPUTS), len(choices)))


def score(model, choices, prompt):
    inputs, mask = pad(INPUTS)
    batch = {"inputs": inputs, "input_mask": mask}
    return compiled(choice_log_likelihoods, model, batch, *pad_rows(choices), prompt)


@pytest.mark.parametrize(("variant", "kind"), CASES)
def test_a_prompt_for_each_row(models, variant, kind):
    model, choices = models[variant], CHOICES[kind]
    scores = score(model, choices, row_prompts(PROMPTS))
    assert scores.dtype == np.float32
    expected = [brute_force(model, choices, own)[i] for i, own in enumerate(PROMPTS)]
    np.testing.assert_allclose(scores, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_prompt_or_none(models, variant):
    model = models[variant]
    choices = CHOICES["several tokens"]
    for prompt in (PROMPTS[0], None):
        scores = score(model, choices, prompt)
        np.testing.assert_allclose(scores, brute_force(model, choices, prompt), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("variant", "kind"), CASES)
def test_padding_is_harmless(models, variant, kind):
    """A row of padding (one real token), more columns and more choice columns."""
    model, choices = models[variant], CHOICES[kind]
    expected = score(model, choices, row_prompts(PROMPTS))
    inputs, mask = pad([*INPUTS, [4]], width=13)
    batch = {"inputs": inputs, "input_mask": mask}
    ids, real = pad_rows(choices)
    wider = np.pad(ids, ((0, 0), (0, 2)), constant_values=8), np.pad(real, ((0, 0), (0, 2)))
    prompts = row_prompts([*PROMPTS, PROMPTS[1]])
    padded = compiled(choice_log_likelihoods, model, batch, *wider, prompts)
    assert np.isfinite(padded).all()
    np.testing.assert_allclose(padded[:-1], expected, atol=1e-5, rtol=0)


def test_a_likelihood_is_one_of_a_distribution(models):
    """All single tokens together have probability 1."""
    model = models["t5"]
    everything = [[i] for i in range(model.config.vocab_size)]
    scores = score(model, everything, PROMPTS[0])
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-5)


OWN_CHOICES = [[[5, 6, 7], [90]], [[30, 31], [8]], [[12], [13, 14]]]  # for each row its own


@pytest.mark.parametrize("variant", VARIANTS)
def test_choices_of_each_row(models, variant):
    model = models[variant]
    padded = [pad_rows(choices) for choices in OWN_CHOICES]
    ids, real = np.zeros((3, 2, 3), np.int32), np.zeros((3, 2, 3), bool)
    for row, (row_ids, row_real) in enumerate(padded):
        ids[row, :, : row_ids.shape[1]] = row_ids
        real[row, :, : row_ids.shape[1]] = row_real
    inputs, mask = pad(INPUTS)
    batch = {"inputs": inputs, "input_mask": mask}
    prompts = row_prompts(PROMPTS)
    scores = compiled(choice_log_likelihoods, model, batch, ids, real, prompts)
    for row, choices in enumerate(OWN_CHOICES):
        expected = brute_force(model, choices, PROMPTS[row])[row]
        np.testing.assert_allclose(scores[row], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("variant", ["mistral", "gpt2"])
def test_a_prompts_keys_and_values_and_left_padding(models, variant):
    model, choices = models[variant], CHOICES["several tokens"]
    expected = score(model, choices, row_prompts(PROMPTS))
    inputs, mask = pad(INPUTS, "left", width=13)

    def from_bank(module, batch, *arguments):
        *choices, prompts = arguments
        bank = make_bank(module, prompts)
        return choice_log_likelihoods(module, batch, *choices, take_rows(bank, np.arange(3)[::-1]))

    batch = {"inputs": inputs, "input_mask": mask}
    reverse = row_prompts(PROMPTS[::-1])
    scores = compiled(from_bank, model, batch, *pad_rows(choices), reverse)
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
