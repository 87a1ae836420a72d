"""Reparameterisations: against torch and PEFT, and folded into plain vectors with equal logits."""

import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from lively_models import compiled, make_lively, random_prompt
from small_runs import random_batch

from softprompt_jax.models import load_model
from softprompt_jax.models.blocks import set_remat
from softprompt_jax.models.layers import Dropout
from softprompt_jax.models.stacking import stack_blocks
from softprompt_jax.prompts.prompted_model import Prompt, PromptedModel, PromptNetwork
from softprompt_jax.prompts.reparameterizations import (
    LSTMEncoder,
    MLPEncoder,
    MultitaskPrompt,
    ResidualMLP,
    reparameterize,
)

LENGTH, WIDTH, HIDDEN = 5, 32, 12
RESIDUALS = [(norm, separate) for norm in (True, False) for separate in (True, False)]


def start():
    return jnp.asarray(random_prompt(LENGTH))


def made(kind, *, seed=0, **options):
    """With every parameter drawn anew, so that nothing is 0 or 1."""
    options = {"hidden": HIDDEN, "tasks": 3, **options}
    module = reparameterize(kind, start(), jax.random.key(seed), **options)
    return shaken(module, seed)


def shaken(module, seed=0):
    graphdef, state = nnx.split(module)
    generator = np.random.default_rng(seed)
    shake = lambda x: x + jnp.asarray(generator.normal(0, 0.3, x.shape), jnp.float32)  # noqa: E731
    return nnx.merge(graphdef, jax.tree.map(shake, state))


def size(module):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module)))


# --- One by one ------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "separate"), RESIDUALS)
def test_the_residual_mlp_starts_as_the_prompt(norm, separate):
    module = ResidualMLP(start(), HIDDEN, layer_norm=norm, separate=separate, key=jax.random.key(0))
    np.testing.assert_array_equal(module.vectors, start())
    gradient = jax.grad(lambda state: jnp.sum(jnp.square(rebuilt(module, state).vectors)))
    moved = jax.tree.leaves(gradient(nnx.state(module)))
    assert sum(bool(jnp.any(leaf != 0)) for leaf in moved) > 1  # more than the table learns


def rebuilt(module, state):
    return nnx.merge(nnx.graphdef(module), state)


@pytest.mark.parametrize(("norm", "separate"), RESIDUALS)
def test_the_residual_mlp_is_torchs(norm, separate):
    torch = import_torch()
    module = made("residual_mlp", layer_norm=norm, separate=separate)
    table = torch.tensor(np.asarray(module.table[...]))
    rows = []
    for i in range(LENGTH):

        def own(value, i=i):
            value = np.asarray(value)
            return value[i] if separate else value

        down, up = torch.nn.Linear(WIDTH, HIDDEN), torch.nn.Linear(HIDDEN, WIDTH)
        layers = [down, torch.nn.ReLU(), up]
        set_linear(torch, down, own(module.down.kernel[...]), own(module.down.bias[...]))
        set_linear(torch, up, own(module.up.kernel[...]), own(module.up.bias[...]))
        if norm:
            layer_norm = torch.nn.LayerNorm(WIDTH)
            layer_norm.weight.data = torch.tensor(own(module.scale[...]))
            layer_norm.bias.data = torch.tensor(own(module.shift[...]))
            layers.append(layer_norm)
        with torch.no_grad():
            rows.append(table[i] + torch.nn.Sequential(*layers)(table[i]))
    np.testing.assert_allclose(module.vectors, torch.stack(rows).numpy(), atol=2e-6)
    per_network = 2 * WIDTH * HIDDEN + HIDDEN + WIDTH + (2 * WIDTH if norm else 0)
    assert size(module) == LENGTH * WIDTH + (LENGTH if separate else 1) * per_network


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_ptuning_encoders_are_pefts(kind):
    torch = import_torch()
    encoder = peft_encoder(kind)
    module = made(kind)
    encoder.embedding.weight.data = torch.tensor(np.asarray(module.table[...]))
    if kind == "mlp":
        dense = (module.first, module.second, module.third)
    else:
        dense = (module.inner, module.outer)
        directions = {
            "l0": module.first.forward,
            "l0_reverse": module.first.backward,
            "l1": module.second.forward,
            "l1_reverse": module.second.backward,
        }
        generator = np.random.default_rng(1)
        for name, ours in directions.items():
            # torch's two biases count as their sum.
            part = generator.normal(size=4 * HIDDEN).astype(np.float32)
            for weight, value in (
                ("weight_ih", ours.input_kernel[...].T),
                ("weight_hh", ours.state_kernel[...].T),
                ("bias_ih", part),
                ("bias_hh", ours.bias[...] - part),
            ):
                parameter = getattr(encoder.lstm_head, f"{weight}_{name}")
                assert parameter.shape == value.shape
                parameter.data = torch.tensor(np.array(value))
    linears = [layer for layer in encoder.mlp_head if isinstance(layer, torch.nn.Linear)]
    for linear, ours in zip(linears, dense, strict=True):
        set_linear(torch, linear, np.asarray(ours.kernel[...]), np.asarray(ours.bias[...]))
    with torch.no_grad():
        expected = encoder(torch.arange(LENGTH)[None])[0].numpy()
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(module.vectors, expected, atol=3e-6)

    biases_twice = 16 * HIDDEN if kind == "lstm" else 0
    assert size(module) + biases_twice == sum(p.numel() for p in encoder.parameters())


def import_torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations are not ours
        return pytest.importorskip("torch")


def peft_encoder(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = pytest.importorskip("peft")
        config = peft.PromptEncoderConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=LENGTH,
            token_dim=WIDTH,
            num_transformer_submodules=1,
            encoder_reparameterization_type=kind.upper(),
            encoder_hidden_size=HIDDEN,
        )
        return peft.PromptEncoder(config)


def set_linear(torch, linear, kernel, bias):
    assert linear.weight.shape == kernel.T.shape
    linear.weight.data = torch.tensor(np.array(kernel.T))
    linear.bias.data = torch.tensor(np.array(bias))


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_ptuning_encoders_start_as_torchs(kind):
    """Weights are spread over torch's interval, all of it."""
    module = reparameterize(kind, start(), jax.random.key(0), hidden=64)
    np.testing.assert_array_equal(module.table[...], start())
    if kind == "mlp":
        bounds = {"first": WIDTH, "second": 64, "third": 64}
    else:
        bounds = {"first": 64, "second": 64, "inner": 128, "outer": 128}
    for name, fan_in in bounds.items():
        for leaf in jax.tree.leaves(nnx.state(getattr(module, name))):
            assert 0.9 < float(jnp.abs(leaf).max()) * fan_in**0.5 <= 1


def test_the_multitask_prompt():
    fresh = MultitaskPrompt(start(), 3)
    np.testing.assert_array_equal(fresh.vectors, np.stack([start()] * 3))
    assert size(fresh) == LENGTH * WIDTH + 3 * (LENGTH + WIDTH)
    module = shaken(fresh)
    for task, vectors in enumerate(np.asarray(module.vectors)):
        factor = np.outer(module.columns[...][task], module.rows[...][task])
        np.testing.assert_allclose(vectors, np.asarray(module.shared[...]) * factor, rtol=1e-6)


def test_what_is_a_network():
    """All of it is trained; what is no vector may have another rate."""
    assert reparameterize("plain", start(), jax.random.key(0)) is not None
    names = {"residual_mlp": {"table"}, "mlp": {"table"}, "lstm": {"table"}}
    names["multitask"] = {"shared", "columns", "rows"}
    for kind, plain in names.items():
        state = nnx.to_flat_state(nnx.state(made(kind)))
        assert all(issubclass(variable.type, Prompt) for _, variable in state)
        assert all(variable[...].dtype == jnp.float32 for _, variable in state)
        vectors = {p[0] for p, v in state if not issubclass(v.type, PromptNetwork)}
        assert vectors == plain


@pytest.mark.parametrize(
    ("kind", "type_"), [("residual_mlp", ResidualMLP), ("mlp", MLPEncoder), ("lstm", LSTMEncoder)]
)
def test_default_widths(kind, type_):
    module = reparameterize(kind, start(), jax.random.key(0))
    assert isinstance(module, type_)
    hidden = {"residual_mlp": 800}.get(kind, WIDTH)
    assert hidden in {n for leaf in jax.tree.leaves(nnx.state(module)) for n in leaf.shape}


# --- In a model ------------------------------------------------------------------------------

VARIANTS = ("t5", "mistral", "gpt2")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {v: load_model(str(make_lively(tmp_path_factory.mktemp("m"), v))) for v in VARIANTS}


def target_logits(module, prompt, batch, dropout):
    return PromptedModel(module, prompt).target_logits(batch, dropout)


def logits_of(prompt, model, batch, dropout=None):
    return compiled(target_logits, model, prompt, batch, dropout)


@pytest.mark.parametrize(
    ("kind", "variant"), [("residual_mlp", "t5"), ("mlp", "mistral"), ("lstm", "gpt2")]
)
def test_folded_it_has_equal_logits(models, kind, variant):
    module = made(kind)
    batch = random_batch(3)
    folded = logits_of(module.vectors, models[variant], batch)
    assert np.abs(folded - logits_of(start(), models[variant], batch)).max() > 1e-2
    np.testing.assert_allclose(logits_of(module, models[variant], batch), folded, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("variant", "how"),
    [
        ("t5", "as it is"),
        ("t5", "dropout"),
        ("mistral", "as it is"),
        ("mistral", "remat"),
        ("gpt2", "dropout"),
        ("gpt2", "stacked"),
    ],
)
def test_each_row_has_its_tasks_prompt(models, variant, how):
    plain = models[variant]
    model = SimpleNamespace(module=nnx.clone(plain.module))
    if how == "stacked":
        model.module = stack_blocks(model.module)
    if how == "remat":
        set_remat(model.module, "full")
    module = made("multitask")
    batch = random_batch(4) | {"prompt_ids": np.asarray([2, 0, 1, 2], np.int32)}
    dropout = Dropout(0.2, jax.random.split(jax.random.key(1), 4)) if how == "dropout" else None
    logits = logits_of(module, model, batch, dropout)
    if how == "as it is":
        folded = logits_of(module.vectors, model, batch)
        np.testing.assert_allclose(logits, folded, atol=2e-5, rtol=0)
    # One compiled function serves each task's prompt alone.
    alone_of = [logits_of(vectors, plain, batch, dropout) for vectors in module.vectors]
    for row, task in enumerate(batch["prompt_ids"]):
        alone, mask = alone_of[task], batch["target_mask"][row]
        np.testing.assert_allclose(logits[row][mask], alone[row][mask], atol=3e-5, rtol=0)
