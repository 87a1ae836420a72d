"""`python -m softprompt_jax.plan` on the devices of this machine."""

import importlib.util
import json

import jax
import pytest
from planning.shapes import shape_config
from small_runs import write_recipe

from softprompt_jax import plan
from softprompt_jax.errors import UserError
from softprompt_jax.planning import topology


@pytest.fixture(autouse=True)
def keep_the_cache():
    before = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", before)


@pytest.mark.slow
def test_the_step_is_planned_from_its_shapes(tmp_path, capsys):
    recipe = write_recipe(shape_config(tmp_path), tmp_path)
    assert plan.main(["--config", str(recipe), "--json", "--target-length", "2"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["batch_size"] == 8
    assert (found["input_length"], found["target_length"]) == (40, 2)
    assert found["parameters_trained"] == 24 * 256
    assert found["fits"]
    assert found["memory_bytes"] is None  # a CPU's is the machine's
    assert found["largest_batch"] is None
    assert 1.0 <= found["flops_over_minimum"] < 1.15
    assert found["peak_bytes"] > found["argument_bytes"] > 4 * found["parameters_frozen"]
    assert "it fits: " in captured.err

    assert plan.main(["--config", str(recipe), "--train.remat", "full"]) == 0
    text = capsys.readouterr().out
    assert f"{found['parameters_frozen']:,} frozen" in text
    assert "remat full, layers scanned" in text
    assert "x the minimum of" in text
    assert "compile time: " in text


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--topology", "v5e"], "'v5e' is no TPU slice"),
        (["--topology", "v5e:2x2x1"], "is no TPU slice"),
        (["--topology", "v4:2x2"], "as in v5e:1x1, v5e:2x4 or v4:2x2x1"),
        (["--topology", "v99:2x2"], "is no TPU slice"),
        (["--input-length", "0"], "--input-length is 0; it must be at least 1"),
        (["--target-length", "x"], "see --help"),
        (["--model.name", "no such model"], "There is no folder"),
        (["--train.batch_size", "3", "--parallel.devices", "2"], "cannot be shared by 2 devices"),
        (["--train.batch", "3"], "There is no option --train.batch"),
    ],
)
def test_mistakes(tmp_path, arguments, match):
    recipe = write_recipe(shape_config(tmp_path), tmp_path)
    with pytest.raises(UserError, match=match):
        plan.main(["--config", str(recipe), *arguments])


def test_without_the_compiler_the_error_is_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'jax\[tpu\]=={jax.__version__}'"):
        topology.described_devices("v5e:2x4")
