"""The loss against NumPy, and what the options of a step do to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import prompted_tiny, random_batch

from softprompt_jax.config import OptimizerOptions
from softprompt_jax.models.layers import Dropout
from softprompt_jax.prompts.prompted_model import target_logits
from softprompt_jax.training import partition
from softprompt_jax.training.objectives import Objectives, token_sums
from softprompt_jax.training.optimizers import make_optimizer
from softprompt_jax.training.step import init_state, make_train_step


def numpy_loss(logits, targets, mask, z_loss):
    """Summed cross-entropy plus z-loss, summed cross-entropy, correct tokens: token by token."""
    total = cross_entropy = correct = 0.0
    for row in range(logits.shape[0]):
        for position in np.flatnonzero(mask[row]):
            scores = logits[row, position].astype(np.float64)
            log_z = np.log(np.sum(np.exp(scores - scores.max()))) + scores.max()
            surprise = log_z - scores[targets[row, position]]
            cross_entropy += surprise
            total += surprise + z_loss * log_z**2
            correct += np.argmax(scores) == targets[row, position]
    return total, cross_entropy, correct


@pytest.mark.parametrize("z_loss", [0.0, 1e-4, 0.5])
def test_loss_is_the_formula(z_loss):
    batch = random_batch(6, targets=5)
    logits = np.random.default_rng(1).normal(0, 4, (6, 5, 100)).astype(np.float32)
    # Some tokens are predicted rightly.
    np.put_along_axis(logits[:, :2], batch["targets"][:, :2, None], 20, axis=-1)
    total, counts = token_sums(jnp.asarray(logits), batch, z_loss)
    want = numpy_loss(logits, batch["targets"], batch["target_mask"], z_loss)
    assert float(total) == pytest.approx(want[0], rel=1e-6)
    assert float(counts["loss"]) == pytest.approx(want[1], rel=1e-6)
    assert float(counts["correct"]) == want[2] > 0
    assert float(counts["tokens"]) == batch["target_mask"].sum()


def test_padded_targets_do_not_count():
    batch = random_batch(6)
    logits = jax.random.normal(jax.random.key(0), (6, 5, 100))
    other = batch | {"targets": np.where(batch["target_mask"], batch["targets"], 99)}
    assert token_sums(logits, batch, 0.1)[0] == token_sums(logits, other, 0.1)[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return prompted_tiny(tmp_path_factory.mktemp("models") / "t5", "t5")


def first_steps(model, batch, steps=1, **options):
    """Metrics of the first steps, and the prompt after them."""
    is_trained = partition.trainable_filter("prompt_tuning")
    graphdef, trainable, frozen = partition.split(model, is_trained)
    optimizer = make_optimizer(OptimizerOptions(), "prompt_tuning", steps)
    state = init_state(trainable, optimizer, 7)
    step = jax.jit(make_train_step(graphdef, optimizer, **options))
    told = []
    for _ in range(steps):
        state, metrics = step(state, frozen, batch)
        told.append({name: float(value) for name, value in metrics.items()})
    return told, np.asarray(jax.tree.leaves(state.trainable)[0])


def mean_loss(model, batch, dropout=None, z_loss=0.0):
    @jax.jit
    def loss():
        return token_sums(model.target_logits(batch, dropout), batch, z_loss)[0]

    return float(loss()) / batch["target_mask"].sum()


def test_a_step_tells_the_mean_over_real_tokens(model):
    batch = random_batch(4)
    (told,), _ = first_steps(model, batch)
    logits = np.asarray(model.target_logits(batch))
    _, loss, correct = numpy_loss(logits, batch["targets"], batch["target_mask"], 0)
    tokens = batch["target_mask"].sum()
    assert told["loss"] == pytest.approx(loss / tokens, rel=1e-5)
    assert told["token_accuracy"] == pytest.approx(correct / tokens)
    assert told["tokens"] == tokens


def test_z_loss_moves_the_gradient_but_not_the_loss_told(model):
    batch = random_batch(4)
    (plain,), _ = first_steps(model, batch)
    (with_z,), _ = first_steps(model, batch, objectives=Objectives(z_loss=0.1))
    assert with_z["loss"] == pytest.approx(plain["loss"], rel=1e-6)

    @jax.jit
    @jax.grad
    def gradient_of_sum(vectors):
        return token_sums(target_logits(model.model, batch, vectors), batch, 0.1)[0]

    gradient = gradient_of_sum(model.vectors) / batch["target_mask"].sum(dtype=np.float32)
    assert with_z["grad_norm"] == pytest.approx(float(jnp.linalg.norm(gradient)), rel=1e-4)
    assert abs(with_z["grad_norm"] / plain["grad_norm"] - 1) > 1e-3


def test_dropout_is_drawn_by_run_step_and_row(model):
    batch = random_batch(4)
    told, _ = first_steps(model, batch, steps=2, dropout_rate=0.3)
    key = jax.random.fold_in(jax.random.key(7), 0)
    keys_B = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(4))
    assert told[0]["loss"] == pytest.approx(mean_loss(model, batch, Dropout(0.3, keys_B)), rel=1e-5)
    assert told[0]["loss"] != pytest.approx(mean_loss(model, batch), rel=1e-4)


def test_accumulation_changes_nothing(model):
    """With z-loss; test_layouts.py has dropout, whose noise goes by row."""
    batch = random_batch(8)
    objectives = Objectives(z_loss=0.01)
    want, prompt = first_steps(model, batch, steps=2, objectives=objectives)
    told, other = first_steps(model, batch, steps=2, objectives=objectives, accumulation=4)
    for a, b in zip(told, want, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    np.testing.assert_allclose(other, prompt, rtol=1e-4, atol=1e-5)


def test_a_step_that_is_not_finite_leaves_the_prompt(model):
    batch = random_batch(4)
    is_trained = partition.trainable_filter("prompt_tuning")
    graphdef, trainable, frozen = partition.split(model, is_trained)
    # The loss is fine at first, but the update is not.
    optimizer = make_optimizer(OptimizerOptions(learning_rate=3e38), "prompt_tuning", 2)
    state = init_state(trainable, optimizer, 0)
    new, metrics = jax.jit(make_train_step(graphdef, optimizer))(state, frozen, batch)
    assert np.isfinite(metrics["loss"])
    assert metrics["finite"] == 0
    assert int(new.step) == 1
    for old_leaf, new_leaf in zip(
        jax.tree.leaves((state.trainable, state.opt_state)),
        jax.tree.leaves((new.trainable, new.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(old_leaf, new_leaf)
