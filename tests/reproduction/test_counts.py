"""Table 4 and figure 4 against the paper's numbers and formulas written out here."""

import pytest

from softprompt_jax.models.known_shapes import model_config
from softprompt_jax.reproduction import fig4, tab4
from softprompt_jax.reproduction.experiment import Context
from softprompt_jax.reproduction.presets import SMOKE

# layers, heads, d_model, d_ff of T5 1.1; heads of width 64, 32,128 tokens, a head of its own.
SHAPES = {
    "Small": (8, 6, 512, 1024),
    "Base": (12, 12, 768, 2048),
    "Large": (24, 16, 1024, 2816),
    "XL": (24, 32, 2048, 5120),
    "XXL": (24, 64, 4096, 10240),
}


def count(size):
    layers, heads, width, hidden = SHAPES[size]
    attention, mlp, norm = 4 * width * heads * 64, 3 * width * hidden, width
    encoder = layers * (attention + mlp + 2 * norm)
    decoder = layers * (2 * attention + mlp + 3 * norm)
    return encoder + decoder + 2 * norm + 2 * 32 * heads + 2 * 32128 * width


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    return tab4.compute(Context(SMOKE, tmp_path_factory.mktemp("out")))


def value(result, **coordinates):
    (row,) = [row for row in result.rows if dict(row.coordinates) == coordinates]
    return row


def test_table_4(counted):
    for size in SHAPES:
        frozen = value(counted, size=size, length="", count="frozen")
        assert frozen.ours.mean == count(size)
        assert frozen.difference == 0
        for length in (1, 150):
            trained = value(counted, size=size, length=length, count="trained").ours.mean
            together = value(counted, size=size, length=length, count="together").ours.mean
            assert trained == length * SHAPES[size][2]
            assert together == count(size) + trained
        assert value(counted, size=size, length=100, count="trained").difference == 0


def test_misprints_of_table_4(counted):
    wrong = value(counted, size="Small", length=20, count="trained")
    assert (wrong.ours.mean, wrong.difference) == (10_240, -180)
    wrong = value(counted, size="Large", length=100, count="trained (%)")
    assert wrong.ours.mean == pytest.approx(0.01307, abs=5e-6)
    assert wrong.difference == pytest.approx(-0.006, abs=1e-5)
    assert value(counted, size="XXL", length=50, count="together").ours.mean == 11_135_537_152
    differ = {
        tuple(row.coordinates.values())
        for row in counted.rows
        if abs(row.difference) > (1e-5 if row.coordinates["count"] == "trained (%)" else 0)
    }
    assert differ == {
        ("Small", 20, "trained"),
        ("Small", 20, "together"),
        ("Large", 100, "trained (%)"),
        ("XXL", 50, "together"),
    }


def test_figure_4(tmp_path):
    result = fig4.compute(Context(SMOKE, tmp_path))
    config = model_config("google/t5-base-lm-adapt")
    assert fig4.prompt_tuning(config, 100) == 76_800
    # 12 + 12 layers, each with keys and values of 12 heads of width 64, at 10 positions.
    assert fig4.prefix_inference(config, 10) == 24 * 2 * 768 * 10
    mlp = 768 * 512 + 512 + 512 * 36_864 + 36_864
    assert fig4.prefix_training(config, 10) == 10 * 768 + mlp
    assert fig4.warp(config, 10) == 12 * 768
    for size in SHAPES:
        mean = {
            method: value(result, method=method, size=size).ours.mean
            for method in ("model tuning", *fig4.METHODS)
        }
        total = count(size)
        assert mean["model tuning"] == 100
        assert mean["prompt design"] == pytest.approx(100 * 1250 / total)
        assert mean["prompt tuning"] == pytest.approx(100 * 50.5 * SHAPES[size][2] / total)
        # What the paper says of its figure.
        assert 0.1 <= mean["prefix tuning (inference)"] <= 1.2
        assert mean["WARP"] < 0.1
        assert mean["prefix tuning (training)"] > mean["prefix tuning (inference)"]
        if total > 1e9:
            assert mean["prompt tuning"] < 0.01
