"""Jobs of several real processes on this machine equal one process, and outlive their death."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import changed, checkpoint_bits, metrics_lines, small_config, write_recipe

from softprompt_jax.training.tuning import train

pytestmark = pytest.mark.slow

STEPS = 10
DEADLINE = 300  # seconds for anything to happen


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    config = small_config(
        folder,
        task__test_file=str(folder / "test.jsonl"),
        model__dropout_rate=0.1,
        train__steps=STEPS,
        train__max_shapes=2,
        parallel__devices=None,
    )
    write_recipe(config, folder)
    return config


@pytest.fixture(scope="module")
def folder(config):
    return Path(config.workdir).parent


def start(folder: Path, count: int, devices: int, workdir: str, *options: str):
    """The training command in several processes, each with some devices."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    # JAX's own variables, since conftest has set others for this process.
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "CI": "1",
    }
    command = [
        *(sys.executable, "-m", "softprompt_jax.train", "--config", str(folder / "recipe.py")),
        *("--workdir", str(folder / workdir), *options),
        *("--parallel.coordinator", f"localhost:{port}", "--parallel.processes", str(count)),
    ]
    return [
        subprocess.Popen(
            [*command, "--parallel.process", str(process)],
            env=environment,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(count)
    ]


def finish(job):
    """Exit status, output and messages of each process."""
    told = []
    try:
        for process in job:
            out, err = process.communicate(timeout=DEADLINE)
            told.append((process.returncode, out, err))
    finally:
        for process in job:
            process.kill()
    return told


def run(folder, *arguments):
    told = finish(start(folder, *arguments))
    assert [code for code, _, _ in told] == [0] * len(told), told
    return told


def wait_for_step(workdir: Path, step: int, job) -> None:
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        assert all(process.poll() is None for process in job), finish(job)
        if (workdir / "metrics.jsonl").exists():
            lines = (workdir / "metrics.jsonl").read_text().split("\n")[:-1]
            if any(json.loads(line)["step"] >= step for line in lines):
                return
        time.sleep(0.01)
    finish(job)
    raise AssertionError(f"no step {step}")


@pytest.fixture(scope="module")
def one_device(config, folder):
    return train(changed(config, workdir=str(folder / "one"), parallel__devices=1)).workdir


def prompt(workdir: Path, step: int) -> np.ndarray:
    (values,) = [
        bits for path, bits in checkpoint_bits(workdir, step).items() if "trainable" in path
    ]
    return np.frombuffer(values, np.float32)


def check_equal(workdir: Path, one_device: Path) -> None:
    ours, theirs = metrics_lines(workdir), metrics_lines(one_device)
    assert len([line for line in ours if "train/loss" in line]) == STEPS
    for line, expected in zip(ours, theirs, strict=True):
        assert line == pytest.approx(expected, rel=1e-5)
    ours, theirs = prompt(workdir, STEPS), prompt(one_device, STEPS)
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize(
    ("count", "devices", "options"),
    [
        (2, 2, ("--parallel.tensor", "2")),
        (4, 1, ()),
    ],
)
def test_several_processes_are_one_device(folder, one_device, count, devices, options):
    workdir = folder / f"{count}x{devices}"
    told = run(folder, count, devices, workdir.name, *options)
    check_equal(workdir, one_device)
    assert "folder: " in told[0][1]
    assert f"{count * devices} cpu device(s)" in told[0][2]
    for process, (_, out, err) in enumerate(told):
        assert f"Process {process} of {count} joins the job" in err
        if process:  # one speaks
            assert "validation/accuracy" not in out
            assert "frozen" not in err
    assert (workdir / "result.json").exists()
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["parallel"]["process"] == 0


LONG = ("--train.steps", "90", "--train.evaluate-every", "30", "--train.checkpoint-every", "7")


def kill_one(folder: Path, workdir: Path, victim: int, step: int) -> list[str]:
    """Starts the job, kills one process after a step; what each said."""
    job = start(folder, 2, 2, workdir.name, *LONG)
    wait_for_step(workdir, step, job)
    job[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    told = finish(job)
    assert time.monotonic() - killed < 100  # signs of life are missed after 60 seconds
    assert told[victim][0] == -signal.SIGKILL
    code, _, err = told[1 - victim]
    assert code not in (0, None)
    # The second is JAX's own, if its thread is the first to learn that process 0 is gone.
    assert "error: Another process of the job ended" in err or "another task died" in err
    assert not (workdir / "result.json").exists()
    return [err for _, _, err in told]


def test_killed_and_stopped_it_goes_on_to_the_same_bits(folder):
    run(folder, 2, 2, "uninterrupted", *LONG)
    workdir = folder / "interrupted"
    kill_one(folder, workdir, victim=1, step=15)
    said = kill_one(folder, workdir, victim=0, step=35)
    assert "Resuming after step" in said[0]

    job = start(folder, 2, 2, workdir.name, *LONG)
    wait_for_step(workdir, 55, job)
    job[1].send_signal(signal.SIGTERM)
    told = finish(job)
    assert [code for code, _, _ in told] == [128 + signal.SIGTERM] * 2, told
    stop = re.search(r"Stopped at step (\d+); the same command continues the run", told[0][2])
    assert stop, told
    assert 55 <= int(stop[1]) < 90
    assert (workdir / "checkpoints" / stop[1]).is_dir()

    told = run(folder, 2, 2, workdir.name, *LONG)
    assert f"Resuming after step {stop[1]}." in told[0][2]
    uninterrupted = folder / "uninterrupted"
    assert checkpoint_bits(workdir, 90) == checkpoint_bits(uninterrupted, 90)
    assert metrics_lines(workdir) == metrics_lines(uninterrupted)
    best = "best/prompt.safetensors"
    assert (workdir / best).read_bytes() == (uninterrupted / best).read_bytes()


def test_a_mistake_is_told_by_every_process(folder):
    told = finish(start(folder, 2, 1, "mistake", "--train.batch-size", "7"))
    for code, _, err in told:
        assert code == 2
        assert "error: A batch of 7 cannot be shared by 2 devices" in err


def test_what_goes_wrong_on_the_first_process_is_told_by_all(folder):
    """Only process 0 looks at a folder that is not its own."""
    (folder / "other").mkdir()
    (folder / "other" / "thesis.tex").touch()
    told = finish(start(folder, 2, 1, "other"))
    for code, _, err in told:
        assert code == 2
        assert "is not empty and holds no run" in err
