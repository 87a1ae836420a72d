"""The step, compiled by the TPU's own compiler for slices that are not there."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from planning.shapes import shape_config
from small_runs import write_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu, the TPU's compiler, is not installed: pip install -e '.[tpu]'",
    ),
]


def plan(folder, *arguments, status=0, **train):
    """What the command found; a process of its own, since libtpu changes the environment."""
    recipe = write_recipe(shape_config(folder, **train), folder)
    command = [sys.executable, "-m", "softprompt_jax.plan", "--config", str(recipe), *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if status == 0 else done.stderr


def test_a_step_on_one_chip(tmp_path):
    found = plan(tmp_path, "--topology", "v5e:1x1", "--json", "--no-search", remat="none")
    assert found["device"] == "TPU v5e"
    assert found["devices"] == 1
    assert found["dtype"] == "bfloat16"
    assert found["fits"]
    assert 2 * found["parameters_frozen"] <= found["argument_bytes"] < found["peak_bytes"] < 2**30
    assert 1.0 <= found["flops_over_minimum"] < 1.2
    assert found["roofline_seconds"] == max(found["compute_seconds"], found["transfer_seconds"])
    assert found["compute_seconds"] == pytest.approx(found["flops"] / 197e12)


def test_what_does_not_fit_is_made_to(tmp_path):
    found = plan(
        tmp_path,
        *("--topology", "v5e:1x1", "--json", "--no-search", "--input-length", "2000"),
        batch_size=256,
        remat="none",
    )
    assert not found["fits"]
    assert found["peak_bytes"] > 15.75 * 2**30
    assert any(change["fits"] for change in found["changes"])
    assert not found["changes"][0]["fits"] or len(found["changes"]) > 1


def test_a_mesh_of_eight_chips(tmp_path):
    layout = ("--parallel.layout", "mesh", "--parallel.devices", "None")
    found = plan(tmp_path, "--topology", "v5e:2x4", "--json", "--no-search", *layout)
    assert found["devices"] == 8
    assert found["layout"] == "mesh"
    assert found["argument_bytes"] < 2 * found["parameters_frozen"] / 4


def test_a_slice_that_libtpu_refuses(tmp_path):
    told = plan(tmp_path, "--topology", "v5e:3x7", status=2)
    assert told.startswith("error: libtpu knows no slice v5e:3x7")
