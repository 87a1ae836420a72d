"""Stopped at any instant, a run goes on to the bits of one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import checkpoint_bits, metrics_lines, small_config, write_recipe

pytestmark = pytest.mark.slow

STEPS = 300
DEADLINE = 300  # seconds for anything to happen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Model, data and a recipe."""
    folder = tmp_path_factory.mktemp("resume")
    config = small_config(
        folder,
        task__test_file=str(folder / "test.jsonl"),
        model__dropout_rate=0.1,
        prompt__init="class_labels",
        train__steps=STEPS,
        train__evaluate_every=50,
        train__evaluate_first=True,
        train__checkpoint_every=7,
        train__log_every=5,
    )
    write_recipe(config, folder)
    return folder


def start(folder: Path, workdir: str) -> subprocess.Popen:
    """The training command in a process of its own."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "softprompt_jax.train"),
            *("--config", str(folder / "recipe.py"), "--workdir", str(folder / workdir)),
        ],
        env=os.environ | cache | {"CI": "1"},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE)
    return process.returncode, out, err


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen) -> None:
    """Until metrics.jsonl tells of the step; the process must still be running."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        if (workdir / "metrics.jsonl").exists():
            lines = (workdir / "metrics.jsonl").read_text().split("\n")[:-1]
            if any(json.loads(line)["step"] >= step for line in lines):
                return
        time.sleep(0.002)
    process.kill()
    raise AssertionError(f"no step {step}")


@pytest.fixture(scope="module")
def uninterrupted(folder):
    code, out, err = finish(start(folder, "uninterrupted"))
    assert code == 0, err
    assert "folder: " in out
    return folder / "uninterrupted"


def bits(workdir: Path) -> dict[str, bytes]:
    """Of the best prompt and of all that the last checkpoint holds."""
    return {
        "best": (workdir / "best" / "prompt.safetensors").read_bytes(),
        "card": (workdir / "best" / "prompt.json").read_bytes(),
        **checkpoint_bits(workdir, STEPS),
    }


def result(workdir: Path) -> dict:
    told = json.loads((workdir / "result.json").read_text())
    return {name: told[name] for name in told if "second" not in name}


def check_same(workdir: Path, uninterrupted: Path) -> None:
    ours, theirs = bits(workdir), bits(uninterrupted)
    assert any("trainable" in path for path in ours)
    assert any("opt_state" in path for path in ours)
    assert ours == theirs
    assert metrics_lines(workdir) == metrics_lines(uninterrupted)
    assert result(workdir) == result(uninterrupted)
    for inside in ("", "checkpoints"):
        names = [
            {path.name for path in (run / inside).iterdir()} for run in (workdir, uninterrupted)
        ]
        assert names[0] == names[1]


def test_killed_three_times(folder, uninterrupted):
    generator = np.random.default_rng(20210910)
    workdir = folder / "killed"
    for earliest, latest in ((0, 50), (90, 150), (180, 250)):
        process = start(folder, "killed")
        wait_for_step(workdir, generator.integers(earliest, latest), process)
        time.sleep(generator.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
        assert not (workdir / "result.json").exists()
    code, _, err = finish(start(folder, "killed"))
    assert code == 0, err
    assert "Resuming after step" in err
    check_same(workdir, uninterrupted)


def test_asked_to_stop(folder, uninterrupted):
    workdir = folder / "stopped"
    process = start(folder, "stopped")
    wait_for_step(workdir, 100, process)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 128 + signal.SIGTERM, err
    assert "the same command continues the run" in err
    assert out == ""
    assert not (workdir / "result.json").exists()
    code, _, err = finish(start(folder, "stopped"))
    assert code == 0, err
    assert "Resuming after step" in err
    check_same(workdir, uninterrupted)
