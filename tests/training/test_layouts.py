"""One loss whatever the layout: devices, micro-batches and the way a step is compiled."""

import jax
import numpy as np
import pytest
from small_runs import prompted_tiny, random_batch

from softprompt_jax.config import OptimizerOptions
from softprompt_jax.errors import UserError
from softprompt_jax.training import parallel, partition
from softprompt_jax.training.optimizers import make_optimizer
from softprompt_jax.training.step import init_state, make_train_step

STEPS = 10


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {family: prompted_tiny(folder / family, family) for family in ("t5", "llama")}


def run(model, devices, dropout_rate, accumulation=1):
    """Loss, gradient norm and prompt of ten steps; devices None: by jax.jit, not mapped."""
    is_trained = partition.trainable_filter("prompt_tuning")
    graphdef, trainable, frozen = partition.split(model, is_trained)
    optimizer = make_optimizer(OptimizerOptions(), "prompt_tuning", STEPS)
    step = make_train_step(
        graphdef,
        optimizer,
        accumulation=accumulation,
        dropout_rate=dropout_rate,
        axis=None if devices is None else parallel.AXIS,
    )
    # The step donates its state: copied, so that the model keeps its prompt.
    state = jax.tree.map(np.array, init_state(trainable, optimizer, 0))
    if devices is None:
        step = jax.jit(step)
    else:
        chosen = jax.local_devices()[:devices]
        step = parallel.pmap_step(step, chosen)
        state, frozen = parallel.replicate((state, frozen), chosen)
    history = []
    for i in range(STEPS):
        batch = random_batch(32, seed=i)
        if devices is not None:
            batch = parallel.shard_rows(batch, devices)
        state, metrics = step(state, frozen, batch)
        prompt = np.asarray(jax.tree.leaves(state.trainable)[0])
        history.append((float(metrics["loss"]), float(metrics["grad_norm"]), prompt))
    return history


@pytest.fixture(scope="module")
def by_one_device(models):
    return {
        case: run(models[case[0]], 1, case[1]) for case in (("t5", 0), ("t5", 0.2), ("llama", 0.2))
    }


@pytest.mark.parametrize(
    ("family", "devices", "rate", "accumulation"),
    [
        ("t5", None, 0, 1),
        ("t5", 8, 0, 1),
        ("t5", 8, 0, 2),
        ("t5", 8, 0.2, 4),
        ("t5", 1, 0, 4),
        ("llama", 8, 0.2, 2),
        ("llama", None, 0.2, 1),
    ],
)
def test_every_layout_is_one_device(models, by_one_device, family, devices, rate, accumulation):
    history = run(models[family], devices, rate, accumulation)
    expected = by_one_device[family, rate]
    for (loss, norm, prompt), (want_loss, want_norm, want) in zip(history, expected, strict=True):
        assert loss == pytest.approx(want_loss, rel=1e-5)
        assert norm == pytest.approx(want_norm, rel=1e-5)
        assert np.linalg.norm(prompt - want) <= 1e-5 * np.linalg.norm(want)
    start, end = expected[0][2], expected[-1][2]
    assert np.linalg.norm(end - start) > 0.1 * np.linalg.norm(start)


def test_dropout_matters(by_one_device):
    assert by_one_device["t5", 0][0][0] != by_one_device["t5", 0.2][0][0]


def test_target_tokens_are_uneven_over_devices():
    """Otherwise means of means would pass for sums."""
    masks = parallel.shard_rows(random_batch(32), 8)["target_mask"]
    tokens = masks.sum(axis=(1, 2))
    assert tokens[0] > 2 * tokens[-1]


def test_a_batch_is_cut_in_order():
    shares = parallel.shard_rows({"x": np.arange(12).reshape(6, 2)}, 3)
    np.testing.assert_array_equal(shares["x"], np.arange(12).reshape(3, 2, 2))


@pytest.mark.parametrize(
    ("count", "batch_size", "accumulation", "message"),
    [
        (9, 18, 1, "this machine has 8"),
        (8, 12, 1, "12 cannot be shared by 8 devices; .* multiple of 8"),
        (4, 8, 4, "8 cannot be shared by 4 devices with 4 micro-batches each; .* multiple of 16"),
        (1, 3, 2, "3 cannot be shared by 1 device with 2"),
    ],
)
def test_batches_that_cannot_be_shared(count, batch_size, accumulation, message):
    with pytest.raises(UserError, match=message):
        parallel.local_devices(count, batch_size, accumulation)


def test_all_devices_unless_told():
    assert len(parallel.local_devices(None, 16)) == 8
    assert parallel.local_devices(2, 16) == jax.local_devices()[:2]
