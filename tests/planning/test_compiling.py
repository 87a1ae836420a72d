import dataclasses
from typing import Any

import jax
import pytest
from planning.shapes import shape_config

from softprompt_jax.config import ParallelOptions
from softprompt_jax.data.buckets import Shape
from softprompt_jax.models.families import parameter_count
from softprompt_jax.models.known_shapes import model_config
from softprompt_jax.planning import compiling
from softprompt_jax.planning.compiling import (
    Footprint,
    Parameters,
    Scenario,
    Work,
    count_work,
    measure_memory,
    measure_work,
)
from softprompt_jax.planning.report import Plan, to_object
from softprompt_jax.training.flops import run_step_flops, step_flops
from softprompt_jax.training.tuning import TaskSubject

SHAPE = Shape(40, 4)


def scenario(folder, family="t5", parallel=None, **train):
    config = shape_config(folder, family, parallel, **train)
    return Scenario(config, model_config(config.model.name), SHAPE, tuple(jax.devices("cpu")))


def weights_of(scenario, layers):
    """Bytes in float32, by hand; a T5 with gates and a head of its own."""
    raw = scenario.model
    projections = 4 * raw.d_model * raw.n_heads * raw.head_width
    encoder = projections + 3 * raw.d_model * raw.d_ff + 2 * raw.d_model
    decoder = encoder + projections + raw.d_model
    ends = 2 * (raw.d_model + 32 * raw.n_heads) + 2 * raw.vocab_size * raw.d_model
    return 4 * (layers[0] * encoder + layers[1] * decoder + ends)


def test_arguments_are_weights_state_and_rows(tmp_path):
    planned = scenario(tmp_path)
    footprint, parameters = measure_memory(planned)
    weights = weights_of(planned, (2, 2))
    assert parameters.frozen * 4 == weights
    assert parameters.trained == 24 * 256
    prompt = 4 * 24 * 256
    rows = 8 * (40 * 5 + 4 * 5 + 4)
    # The optimizer has a number for each of the prompt's, and a few counters beside; what the step
    # does not use, as the rows' prompt numbers, is no argument.
    assert 0 <= footprint.arguments - weights - 2 * prompt <= rows + 4096
    assert footprint.fits
    assert footprint.temporaries is not None
    assert footprint.peak is not None
    assert footprint.peak >= footprint.arguments + footprint.temporaries


def test_a_mesh_shares_the_weights_out(tmp_path):
    whole = measure_memory(scenario(tmp_path))[0].arguments
    mesh = scenario(tmp_path, parallel=ParallelOptions(layout="mesh", fsdp=8))
    shared = measure_memory(mesh)[0].arguments
    assert shared < whole / 7


@pytest.mark.slow
def test_recomputing_layers_takes_less_memory(tmp_path):
    def temporaries(remat):
        return measure_memory(scenario(tmp_path, batch_size=32, remat=remat))[0].temporaries

    assert temporaries("full") < temporaries("none") / 1.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "layers"),
    [("t5", {"n_layers": 4, "n_decoder_layers": 3}), ("llama", {"n_layers": 5})],
)
def test_work_of_a_few_layers_stands_for_all(tmp_path, family, layers):
    planned = scenario(tmp_path, family, remat="none")
    if family == "llama":
        layers["windows"] = (None,) * layers["n_layers"]
    model = dataclasses.replace(planned.model, **layers)
    planned = dataclasses.replace(planned, model=model)
    whole = count_work(planned)
    by_share = measure_work(planned)
    assert by_share is not None
    assert by_share.flops == pytest.approx(whole.flops, rel=2e-3)
    assert by_share.bytes_moved == pytest.approx(whole.bytes_moved, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("remat", "least", "most"), [("none", 1.0, 1.06), ("dots", 1.0, 1.2), ("full", 1.25, 1.45)]
)
def test_work_over_the_minimum(tmp_path, remat, least, most):
    planned = scenario(tmp_path, "llama", remat=remat)
    work = measure_work(planned)
    assert work is not None
    assert least <= work.flops / step_flops(planned.model, SHAPE, 8, 24) <= most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "most"),
    # Beside a prefix the last layer is run at all positions, and here it is one of three.
    [("t5", 1.2), ("llama", 1.5)],
)
def test_work_of_a_prefix_over_its_minimum(tmp_path, family, most):
    planned = scenario(tmp_path, family, remat="none")
    planned = planned.changed({"prompt.parameterization": "prefix"})
    work = measure_work(planned)
    assert work is not None
    assert 1.0 <= work.flops / run_step_flops(planned.config, planned.model, SHAPE) <= most


@pytest.mark.parametrize("parameterization", ["plain", "prefix"])
def test_the_plan_counts_the_minimum_as_the_log_does(tmp_path, parameterization):
    planned = scenario(tmp_path).changed({"prompt.parameterization": parameterization})
    footprint = Footprint(True, 1, 1, 1, 1.0)
    found = to_object(Plan(planned, None, Parameters(1, 1), footprint, None, None, []))
    of_the_log: Any = TaskSubject(planned.config, planned.model, [], [], None, None)  # type: ignore
    assert found["minimum_flops"] == of_the_log.step_flops(SHAPE)
    # A prefix goes through no layer.
    length = 0 if parameterization == "prefix" else 24
    assert found["minimum_flops"] == step_flops(planned.model, SHAPE, 8, length)


@pytest.mark.slow
def test_micro_batches_all_count(tmp_path):
    whole = measure_work(scenario(tmp_path, remat="none"))
    parts = measure_work(scenario(tmp_path, remat="none", accumulation=4))
    assert whole is not None
    assert parts is not None
    assert parts.flops == pytest.approx(whole.flops, rel=0.02)
    assert parts.bytes_moved > whole.bytes_moved  # weights are read once for each


@pytest.mark.slow
def test_work_of_several_devices_is_that_of_one(tmp_path):
    one = measure_work(scenario(tmp_path, remat="none"))
    assert one is not None
    for parallel in (ParallelOptions(devices=4), ParallelOptions(layout="mesh", data=2, fsdp=4)):
        several = measure_work(scenario(tmp_path, parallel=parallel, remat="none"))
        assert several is not None
        assert several.flops == pytest.approx(one.flops, rel=0.05)


def test_work_is_counted_in_the_layout_of_the_whole_model(tmp_path, monkeypatch):
    """Which is a mesh where the weights are too many for a device, but fewer layers are not."""
    weight_bytes = 4 * parameter_count(scenario(tmp_path).model)
    monkeypatch.setattr(
        "softprompt_jax.training.parallel._memory_limit", lambda _: round(weight_bytes / 0.7)
    )
    planned = scenario(tmp_path)
    assert planned.layout.axis is None
    counted = []
    monkeypatch.setattr(
        compiling, "count_work", lambda each: counted.append(str(each.layout)) or Work(1, 1)
    )
    measure_work(planned)
    assert len(counted) > 1
    assert set(counted) == {str(planned.layout)}


def test_what_the_compiler_says_is_missing_is_read():
    arguments = 2**30
    early = "total memory required for HLO temporaries (16.50G) exceeds available HBM (15.75G)"
    late = "Ran out of memory in memory space hbm. Used 20.25G of 15.75G hbm."
    assert compiling._needed(early, arguments) == 17.5 * 2**30
    assert compiling._needed(late, arguments) == 20.25 * 2**30
    assert compiling._needed("something else", arguments) is None
