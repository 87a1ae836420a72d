"""One loss whatever the layout: devices, micro-batches and the way a step is compiled."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from small_runs import prompted_tiny, random_batch
from tiny_models import make_tiny

from softprompt_jax.config import OptimizerOptions, ParallelOptions
from softprompt_jax.errors import UserError
from softprompt_jax.models import load_model
from softprompt_jax.models.blocks import set_remat
from softprompt_jax.models.stacking import stack_blocks
from softprompt_jax.prompts import PromptedModel
from softprompt_jax.training import partition
from softprompt_jax.training.optimizers import make_optimizer
from softprompt_jax.training.parallel import (
    ROW_AXES,
    MeshLayout,
    PmapLayout,
    choose_layout,
)
from softprompt_jax.training.step import init_state, make_train_step

STEPS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for family in ("t5", "llama"):
        make_tiny(folder / family, family)  # two layers, so that a scan is one
    return folder


def run(
    folder,
    family,
    layout,
    *,
    rate=0.0,
    accumulation=1,
    remat="none",
    stacked=False,
    method="prompt_tuning",
):
    """Loss, gradient norm and what was trained of ten steps; layout None: by plain jax.jit."""
    length = 4 if method == "prompt_tuning" else None
    model = prompted_tiny(folder / family, family, length)
    set_remat(model.model, remat)
    if stacked:
        model = PromptedModel(stack_blocks(model.model), model.vectors)
    is_trained = partition.trainable_filter(method)
    graphdef, trainable, frozen = partition.split(model, is_trained)
    optimizer = make_optimizer(OptimizerOptions(), method, STEPS)
    step = make_train_step(
        graphdef,
        optimizer,
        accumulation=accumulation,
        dropout_rate=rate,
        axis=None if layout is None else layout.axis,
    )
    # The step donates its state: copied, so that the model keeps its prompt.
    state = jax.tree.map(np.array, init_state(trainable, optimizer, 0))
    if layout is None:
        step = jax.jit(step)
    else:
        state, frozen = layout.place_state(state), layout.place_frozen(frozen)
        step = layout.step(step, state)
    history = []
    for i in range(STEPS):
        batch = random_batch(32, seed=i)
        if layout is not None:
            batch = layout.place_rows(batch, 32)
        state, metrics = step(state, frozen, batch)
        trained = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.trainable)])
        history.append((float(metrics["loss"]), float(metrics["grad_norm"]), trained))
    return history


@pytest.fixture(scope="module")
def by_one_device(folder):
    found = {}

    def get(family, rate, method="prompt_tuning"):
        case = family, rate, method
        if case not in found:
            one = PmapLayout(jax.devices()[:1])
            found[case] = run(folder, family, one, rate=rate, method=method)
        return found[case]

    return get


def mesh(**axes):
    return lambda: MeshLayout(jax.devices(), **axes)


def pmap(count):
    return lambda: PmapLayout(jax.devices()[:count])


@pytest.mark.parametrize(
    ("family", "layout", "options"),
    [
        ("t5", pmap(8), {}),
        ("t5", pmap(8), {"accumulation": 4, "rate": 0.2}),
        ("t5", mesh(fsdp=8), {}),
        ("t5", mesh(fsdp=8), {"accumulation": 4}),
        ("t5", mesh(data=2, tensor=4), {}),
        ("t5", mesh(fsdp=2, data=2, tensor=2), {"accumulation": 4, "remat": "attention"}),
        ("t5", mesh(fsdp=8), {"stacked": True, "remat": "full"}),
        ("t5", pmap(2), {"remat": "attention"}),
        ("t5", pmap(2), {"remat": "full", "stacked": True, "rate": 0.2}),
        ("llama", lambda: None, {"rate": 0.2}),
        ("llama", pmap(8), {"rate": 0.2, "accumulation": 2}),
        ("llama", mesh(data=2, tensor=4), {}),
        ("llama", mesh(fsdp=8), {"stacked": True, "remat": "dots"}),
        ("llama", pmap(2), {"stacked": True, "rate": 0.2}),
    ],
)
def test_every_layout_is_one_device(folder, by_one_device, family, layout, options):
    history = run(folder, family, layout(), **options)
    expected = by_one_device(family, options.get("rate", 0.0))
    steps = zip(history, expected, strict=True)
    for number, ((loss, norm, prompt), (want_loss, want_norm, want)) in enumerate(steps):
        # With dropout the loss is rougher, and each step doubles what rounding has spread: 1e-4
        # after ten. Other noise would differ in the first digit of the first step.
        near = 1e-3 if options.get("rate") and number >= 3 else 1e-5
        assert loss == pytest.approx(want_loss, rel=near)
        assert norm == pytest.approx(want_norm, rel=near)
        assert np.linalg.norm(prompt - want) <= near * np.linalg.norm(want)
    start, end = expected[0][2], expected[-1][2]
    assert np.linalg.norm(end - start) > 0.1 * np.linalg.norm(start)


@pytest.mark.parametrize("layout", [mesh(fsdp=8), mesh(data=2, tensor=4)])
def test_model_tuning_over_a_mesh_is_one_device(folder, by_one_device, layout):
    history = run(folder, "t5", layout(), method="model_tuning")
    expected = by_one_device("t5", 0.0, "model_tuning")
    for (loss, norm, weights), (want_loss, want_norm, want) in zip(history, expected, strict=True):
        assert loss == pytest.approx(want_loss, rel=1e-5)
        assert norm == pytest.approx(want_norm, rel=1e-4)
        assert np.linalg.norm(weights - want) <= 1e-4 * np.linalg.norm(want)


def test_dropout_matters(by_one_device):
    assert by_one_device("t5", 0.0)[0][0] != by_one_device("t5", 0.2)[0][0]


def test_a_mesh_cuts_weights_and_moments(folder):
    layout = MeshLayout(jax.devices(), fsdp=4, tensor=2)
    model = prompted_tiny(folder / "t5", "t5", None)
    is_trained = partition.trainable_filter("model_tuning")
    _, trainable, _ = partition.split(model, is_trained)
    optimizer = make_optimizer(OptimizerOptions(name="adamw", learning_rate=0.1), "model_tuning", 1)
    state = layout.place_state(init_state(trainable, optimizer, 0))
    kernels = [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if "encoder" in str(path) and "'up'" in str(path)
    ]
    assert len(kernels) == 2 * 3  # two layers; the weights and AdamW's two moments
    for name, leaf in kernels:
        assert leaf.sharding.spec == PartitionSpec("fsdp", "tensor"), name
        assert leaf.addressable_shards[0].data.size * 8 == leaf.size
    assert state.step.sharding.is_fully_replicated


def test_frozen_weights_of_a_mesh_are_cut(folder):
    layout = MeshLayout(jax.devices(), fsdp=8)
    model = prompted_tiny(folder / "t5", "t5")
    _, _, frozen = partition.split(model, partition.trainable_filter("prompt_tuning"))
    placed = layout.place_frozen(frozen)
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(placed))
    assert held < 0.25 * sum(x.nbytes for x in jax.tree.leaves(frozen))


def test_target_tokens_are_uneven_over_devices():
    """Otherwise means of means would pass for sums."""
    masks = PmapLayout(jax.devices()).place_rows(random_batch(32), 32)["target_mask"]
    tokens = masks.sum(axis=(1, 2))
    assert tokens[0] > 2 * tokens[-1]


def test_a_batch_is_cut_in_order():
    rows = {"x": np.arange(16).reshape(8, 2)}
    shares = PmapLayout(jax.devices()[:4]).place_rows(rows, 8)
    np.testing.assert_array_equal(shares["x"], np.arange(16).reshape(4, 2, 2))
    layout = MeshLayout(jax.devices(), data=2, fsdp=2, tensor=2)
    placed = layout.place_rows(rows, 8)["x"]
    assert placed.sharding.spec == PartitionSpec(ROW_AXES)
    np.testing.assert_array_equal(placed, rows["x"])
    np.testing.assert_array_equal(layout.own_rows(8), np.arange(8))


@pytest.mark.parametrize("layout", [pmap(8), mesh(fsdp=4, tensor=2)])
def test_functions_of_rows_come_back_in_order(layout):
    layout = layout()
    double = layout.over_rows(lambda trained, frozen, rows, shared: rows["x"] * trained + shared)
    rows = layout.place_rows({"x": np.arange(16.0, dtype=np.float32)}, 16)
    two = jax.device_put(np.float32(2), layout.replicated)
    (found,) = layout.fetch([double(two, {}, rows, np.float32(1))])
    np.testing.assert_array_equal(found, 2 * np.arange(16) + 1)


@pytest.mark.parametrize(
    ("options", "batch_size", "accumulation", "message"),
    [
        ({"devices": 9}, 18, 1, "this machine has 8"),
        ({}, 12, 1, "12 cannot be shared by 8 devices; .* multiple of 8"),
        (
            {"devices": 4},
            8,
            4,
            "8 cannot be shared by 4 devices with 4 micro-batches each; .* multiple of 16",
        ),
        ({"devices": 1}, 3, 2, "3 cannot be shared by 1 device with 2"),
        ({"data": 3}, 24, 1, "data 3 x fsdp 2 x tensor 1 does not make up 8 devices"),
        ({"tensor": 16}, 24, 1, "tensor 16 does not make up 8 devices"),
        ({"fsdp": 8}, 12, 1, "12 cannot be shared by 8 devices"),
        ({"layout": "pmap", "tensor": 2}, 8, 1, "--parallel.tensor is an axis of a mesh"),
    ],
)
def test_layouts_that_cannot_be(options, batch_size, accumulation, message):
    with pytest.raises(UserError, match=message):
        choose_layout(ParallelOptions(**options), batch_size, accumulation)


class SmallDevice:
    """As a device of a kind that tells its memory."""

    platform = "tpu"

    def memory_stats(self):
        return {"bytes_limit": 1000}


def test_the_layout_that_is_chosen():
    assert isinstance(choose_layout(ParallelOptions(), 16), PmapLayout)
    assert choose_layout(ParallelOptions(), 16).shards == 8
    assert choose_layout(ParallelOptions(devices=2), 16).devices == tuple(jax.devices()[:2])
    layout = choose_layout(ParallelOptions(tensor=4), 16)
    assert isinstance(layout, MeshLayout)
    assert dict(layout.mesh.shape) == {"data": 1, "fsdp": 2, "tensor": 4}
    layout = choose_layout(ParallelOptions(fsdp=2, layout="mesh"), 16)
    assert dict(layout.mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    small = [SmallDevice()]
    assert isinstance(
        choose_layout(ParallelOptions(), 1, weight_bytes=500, devices=small), PmapLayout
    )


def test_weights_too_large_for_a_device_go_to_a_mesh(monkeypatch):
    monkeypatch.setattr("softprompt_jax.training.parallel._memory_limit", lambda device: 1000)
    assert isinstance(choose_layout(ParallelOptions(), 8, weight_bytes=601), MeshLayout)
    assert isinstance(choose_layout(ParallelOptions(), 8, weight_bytes=599), PmapLayout)


def test_a_stack_has_the_model_logits(folder):
    for family in ("t5", "llama"):
        model = load_model(str(folder / family))
        ids = np.asarray([[3, 4, 5, 6]])
        extra = {"decoder_input_ids": ids} if family == "t5" else {}
        before = model.logits(ids, **extra)
        stacked = load_model(str(folder / family))
        stacked.module = stack_blocks(nnx.merge(*nnx.split(model.module)))
        np.testing.assert_allclose(stacked.logits(ids, **extra), before, atol=1e-5)
