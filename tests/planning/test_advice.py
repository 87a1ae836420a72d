"""The searches, with a compiler whose memory is a line."""

import jax
import pytest
from planning.shapes import shape_config

from softprompt_jax.config import ParallelOptions
from softprompt_jax.data.buckets import Shape
from softprompt_jax.models.known_shapes import model_config
from softprompt_jax.planning import advice
from softprompt_jax.planning.advice import largest_batch, try_changes
from softprompt_jax.planning.compiling import Footprint, Parameters, Scenario

GIB = 2**30


class Compiler:
    """Fits 16 GiB or not; keeps what it was asked."""

    def __init__(self, weights, per_row, remat_gain=None, tells=True):
        self.weights, self.per_row, self.tells = weights, per_row, tells
        self.gain = {"none": 1, "attention": 1, "dots": 1, "full": 1} | (remat_gain or {})
        self.asked = []

    def measure(self, scenario):
        options = scenario.config.train
        self.asked.append(options.batch_size)
        remat = "none" if options.remat == "auto" else options.remat
        weights = self.weights // (1 if scenario.layout.axis else len(scenario.devices))
        rows = options.batch_size / options.accumulation / scenario.layout.shards
        peak = int(weights + rows * self.per_row * self.gain[remat])
        fits = peak <= 15.75 * GIB
        known = fits or self.tells
        footprint = Footprint(fits, weights, None, peak if known else None, 1.0)
        return footprint, Parameters(0, 0)


@pytest.fixture
def plan_with(tmp_path, monkeypatch):
    def prepare(compiler, devices=1, parallel=None, **train):
        monkeypatch.setattr(advice, "measure_memory", compiler.measure)
        monkeypatch.setattr(advice, "memory_limit", lambda devices: 16 * GIB)
        config = shape_config(tmp_path, parallel=parallel or ParallelOptions(), **train)
        model = model_config(config.model.name)
        scenario = Scenario(config, model, Shape(8, 2), tuple(jax.devices("cpu")[:devices]))
        return scenario, compiler.measure(scenario)[0]

    return prepare


def test_the_largest_batch_is_found(plan_with):
    compiler = Compiler(GIB, GIB // 10)  # 147 rows fit
    found = largest_batch(*plan_with(compiler, batch_size=8), lambda what: None)
    assert found is not None
    assert found.fits is not None
    assert found.too_large is not None
    assert found.fits <= 147 < found.too_large
    assert found.too_large - found.fits <= 9
    assert len(compiler.asked) <= 7


def test_a_smaller_batch_is_found(plan_with):
    compiler = Compiler(2 * GIB, GIB)  # 13 rows fit
    found = largest_batch(*plan_with(compiler, batch_size=64), lambda what: None)
    assert found == (13, 14)


def test_a_silent_compiler_is_asked_more_often(plan_with):
    compiler = Compiler(2 * GIB, GIB, tells=False)
    found = largest_batch(*plan_with(compiler, batch_size=64), lambda what: None, 12)
    assert found == (13, 14)


def test_batches_are_what_devices_and_micro_batches_share(plan_with):
    compiler = Compiler(2 * GIB, GIB)
    scenario, first = plan_with(compiler, devices=4, batch_size=64, accumulation=2)
    found = largest_batch(scenario, first, lambda what: None)
    assert found == (104, 112)
    assert all(asked % 8 == 0 for asked in compiler.asked)


def test_weights_alone_that_are_too_large_fit_no_batch(plan_with):
    compiler = Compiler(20 * GIB, GIB)
    found = largest_batch(*plan_with(compiler, batch_size=8), lambda what: None)
    assert found is not None
    assert found.fits is None


def options(changes):
    return [(change.options, change.footprint.fits) for change in changes]


def test_remat_and_accumulation_are_tried(plan_with):
    compiler = Compiler(2 * GIB, GIB, {"dots": 0.5, "full": 0.25})
    changes = try_changes(*plan_with(compiler, batch_size=32), lambda what: None)
    assert options(changes) == [
        ("--train.remat attention", False),
        ("--train.remat dots", False),
        ("--train.remat full", True),
        ("--train.accumulation 2", False),
        ("--train.accumulation 4", True),
    ]


def test_only_a_mesh_helps_weights_that_are_too_large(plan_with):
    compiler = Compiler(32 * GIB, GIB)
    scenario, first = plan_with(compiler, devices=4, batch_size=16)
    assert options(try_changes(scenario, first, lambda what: None)) == [
        ("--parallel.layout mesh", True)
    ]


def test_changes_are_combined_where_none_is_enough(plan_with):
    compiler = Compiler(32 * GIB, 2 * GIB, {"full": 0.5})
    scenario, first = plan_with(compiler, devices=4, batch_size=64)
    changes = options(try_changes(scenario, first, lambda what: None))
    assert changes[-1] == (
        "--parallel.layout mesh --train.remat full --train.accumulation 4",
        True,
    )
    assert not any(fits for _, fits in changes[:-1])
