"""Growth: a wider model has the logits of the narrower one, and all of it can be trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_models import make_tiny

from softprompt_jax.errors import UserError
from softprompt_jax.models import load_model, save_model
from softprompt_jax.pretraining.family import GROWN, NAMES, lm_adaptation, span_corruption
from softprompt_jax.pretraining.growth import grown

WIDER = {"d_model": 48, "num_heads": 6, "d_ff": 80}

IDS = np.array([[7, 12, 31, 9, 1], [22, 8, 1, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
TARGETS = np.array([[0, 14, 5, 1], [0, 33, 33, 9]])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    make_tiny(folder, "t5", seed=3)
    return load_model(str(folder), dtype="float32")


def test_the_wider_model_computes_the_same(small, tmp_path):
    wide = grown(small, "wide", small.raw_config | WIDER)
    assert (wide.config.d_model, wide.config.n_heads, wide.config.d_ff) == (48, 6, 80)
    ours, theirs = wide.logits(IDS, MASK, TARGETS), small.logits(IDS, MASK, TARGETS)
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    save_model(tmp_path / "wide", wide)
    again = load_model(str(tmp_path / "wide"), dtype="float32")
    np.testing.assert_array_equal(again.logits(IDS, MASK, TARGETS), ours)
    assert again.tokenizer("good film").input_ids == small.tokenizer("good film").input_ids


def test_every_new_weight_is_within_reach_of_training(small):
    """One step moves what writes to the new dimensions, a second one whatever reads them."""
    wide = grown(small, "wide", small.raw_config | WIDER)
    graphdef, start, rest = nnx.split(wide.module, nnx.Param, ...)
    mask = jnp.asarray(MASK, bool)

    def loss(params):
        module = nnx.merge(graphdef, params, rest)
        encoded = module.encode(module.embed(jnp.asarray(IDS)), mask)
        hidden = module.decode(module.embed(jnp.asarray(TARGETS)), encoded, mask)
        return jnp.mean(jax.nn.logsumexp(module.unembed(hidden), axis=-1))

    params = start
    for _ in range(2):
        slopes = jax.grad(loss)(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes)
    moved = dict(nnx.to_flat_state(jax.tree.map(lambda a, b: a != b, params, start)))
    still = [path for path, leaf in moved.items() if not np.asarray(leaf[...]).any(axis=0).all()]
    # A row of the embedding moves where its token is seen, so columns are looked at; a bucket of
    # the relative positions likewise.
    assert still == []


@pytest.mark.parametrize(
    "change",
    [
        {"d_model": 24, "num_heads": 3},
        {**WIDER, "num_layers": 3},
        {**WIDER, "d_kv": 16},
        {**WIDER, "vocab_size": 40},
        {**WIDER, "feed_forward_proj": "gelu"},
    ],
    ids=["narrower", "deeper", "wider heads", "fewer words", "ungated"],
)
def test_shapes_that_do_not_fit(small, change):
    with pytest.raises(UserError, match="cannot grow into wide; both must be"):
        grown(small, "wide", small.raw_config | change)


def test_the_recipe_goes_on_from_what_is_grown():
    assert GROWN.keys() <= set(NAMES)
    for name in NAMES:
        config = span_corruption(name, "here")
        assert config.from_scratch == (name not in GROWN)
        assert config.model.name == (f"here/{name}-grown" if name in GROWN else name)
        adaptation = lm_adaptation(name, "here")
        assert adaptation.model.name == f"here/{name}/best"
        assert 4 * adaptation.train.steps == config.train.steps
