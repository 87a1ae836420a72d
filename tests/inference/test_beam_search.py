"""Beam search against transformers' `generate`: the same tokens and scores."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from lively_models import (
    compiled,
    load_torch,
    make_lively,
    pad,
    random_prompt,
    random_rows,
    row_prompts,
)

from softprompt_jax.inference.beam_search import beam_search
from softprompt_jax.inference.decoding import greedy
from softprompt_jax.models import load_model

VARIANTS = ("t5", "mistral", "gpt2")
INPUTS = random_rows((9, 3, 6, 5))
NEW = 8
PAD = 3
EOS = list(range(4, 40))  # so many that beams end at every step


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models that end their texts often."""
    folders = {}
    for variant in VARIANTS:
        folder = make_lively(tmp_path_factory.mktemp("model"), variant)
        raw = json.loads((folder / "config.json").read_text())
        raw |= {"eos_token_id": EOS, "pad_token_id": PAD}
        (folder / "config.json").write_text(json.dumps(raw))
        folders[variant] = folder
    return folders


def ours(model, beams, prompt=None, rows=INPUTS, **options):
    inputs, mask = pad(rows, width=11)
    batch = {"inputs": inputs, "input_mask": mask}
    graphdef, state = nnx.split(model.module)

    @jax.jit
    def search(state):
        module = nnx.merge(graphdef, state)
        return beam_search(module, batch, prompt, NEW, beams=beams, **options)

    return jax.tree.map(np.asarray, search(state))


def theirs(folder, beams, **options):
    torch = pytest.importorskip("torch")
    model = load_torch(folder)
    is_t5 = model.config.is_encoder_decoder
    ids, mask = pad(INPUTS, "right" if is_t5 else "left")
    output = model.generate(
        torch.tensor(ids).long(),
        attention_mask=torch.tensor(mask).long(),
        do_sample=False,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=NEW,
        eos_token_id=EOS,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    answers = output.sequences[:, 1 if is_t5 else ids.shape[1] :].numpy()
    answers = np.pad(answers, ((0, 0), (0, NEW - answers.shape[1])), constant_values=PAD)
    scores = output.sequences_scores.numpy().reshape(len(INPUTS), beams)
    return answers.reshape(len(INPUTS), beams, NEW), scores


CASES = [
    *((variant, {"beams": 3}) for variant in VARIANTS),
    ("t5", {"beams": 4, "length_penalty": 0.0}),
    ("gpt2", {"beams": 2, "length_penalty": -1.0}),
    ("gpt2", {"beams": 4, "early_stopping": True}),
]


@pytest.mark.parametrize(("variant", "options"), CASES)
def test_transformers(folders, variant, options):
    found = ours(load_model(str(folders[variant])), **options)
    ids, scores = theirs(folders[variant], **options)
    np.testing.assert_array_equal(found.ids, ids)
    lengths = (ids != PAD).sum(axis=-1)
    # A negative length penalty multiplies a text's log-likelihood, and so its rounding, by lengths.
    times = lengths ** max(0.0, -options.get("length_penalty", 1.0))
    np.testing.assert_allclose(found.scores / times, scores / times, atol=2e-5, rtol=0)
    assert len(np.unique(lengths)) > 1


def test_options_matter(folders):
    """Else the comparisons above would tell little."""
    model = load_model(str(folders["gpt2"]))
    plain = ours(model, 4)
    for options in ({"length_penalty": -1.0}, {"early_stopping": True}):
        assert (ours(model, 4, **options).ids != plain.ids).any()


def test_one_beam_is_greedy(folders):
    model = load_model(str(folders["mistral"]))
    inputs, mask = pad(INPUTS, width=11)
    batch = {"inputs": inputs, "input_mask": mask}
    expected = compiled(lambda module, *args: greedy(module, *args, NEW), model, batch, None)
    np.testing.assert_array_equal(ours(model, 1).ids[:, 0], expected)


@pytest.mark.parametrize("variant", ["t5", "mistral"])
def test_prompts_and_neighbours(folders, variant):
    """A row's beams are those that its prompt gives it alone."""
    model = load_model(str(folders[variant]))
    prompts = [random_prompt(6), random_prompt(2, seed=1), random_prompt(4, seed=2)]
    mixed = ours(model, 3, row_prompts([*prompts, prompts[0]]))
    for row, own in enumerate(prompts):
        alone = ours(model, 3, own, INPUTS[row : row + 1])
        np.testing.assert_array_equal(mixed.ids[row], alone.ids[0])
        np.testing.assert_allclose(mixed.scores[row], alone.scores[0], atol=1e-5, rtol=0)
