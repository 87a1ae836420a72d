import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from analysis.vocabularies import random_vocabulary
from small_runs import changed, checkpoint_bits, small_config

import softprompt_jax as sp
from softprompt_jax.analysis import reports, trajectory
from softprompt_jax.analysis.trajectory import Point
from softprompt_jax.errors import UserError
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 12 steps with checkpoints at 4, 8 and 12, of which the last two are kept."""
    config = small_config(
        tmp_path_factory.mktemp("run"), prompt__init="class_labels", train__keep_steps=(3, 8)
    )
    sp.train(config)
    return config


def test_what_a_run_keeps(trained):
    run = Path(trained.workdir)
    before = sorted(path.relative_to(run) for path in run.rglob("*"))
    points = {point.step: point for point in trajectory.kept_points(run)}
    best = SoftPrompt.load(run / "best")
    assert {3, 8, 12, best.card["step"]} == set(points)
    assert points[3].kept == "kept"
    np.testing.assert_array_equal(points[3].vectors, SoftPrompt.load(run / "kept" / "3").vectors)
    for step in (8, 12):
        bits = checkpoint_bits(run, step)
        (name,) = [name for name in bits if name.startswith("trainable.")]
        assert points[step].vectors.tobytes() == bits[name]
        assert points[step].vectors.shape == (4, 32)
    kept = points[best.card["step"]]
    np.testing.assert_array_equal(kept.vectors, best.vectors)
    assert "best" in kept.kept
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == before


def test_the_start_is_that_of_the_run(trained, tmp_path):
    """A run whose rate is next to nothing stays where it started."""
    config = trajectory.read_config(Path(trained.workdir))
    assert config == trained
    start = trajectory.start_point(config, load_model(trained.model.name))
    still = changed(
        trained,
        workdir=str(tmp_path / "still"),
        train__steps=1,
        train__keep_steps=(),
        optimizer__learning_rate=1e-30,
        optimizer__weight_decay=0.0,
    )
    best = sp.train(still).best_prompt
    np.testing.assert_array_equal(start.vectors, best.vectors)
    assert (start.step, start.kept) == (0, "start")


def test_a_straight_way():
    start = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    move = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    length = np.linalg.norm(move)
    points = [Point(10 * i, "checkpoint", start + f * move) for i, f in enumerate((0, 1, 3, 2))]
    report = trajectory.describe(points, name="r")
    assert json.loads(json.dumps(report)) == report
    rows = report["points"]
    np.testing.assert_allclose(
        [row["from_start"] for row in rows], np.array([0, 1, 3, 2]) * length, rtol=1e-5
    )
    np.testing.assert_allclose(
        [row["from_last"] for row in rows[1:]], np.array([1, 2, 1]) * length, rtol=1e-5
    )
    assert rows[0]["from_last"] is None
    assert [rows[0]["turn"], rows[1]["turn"]] == [None, None]
    np.testing.assert_allclose([row["turn"] for row in rows[2:]], [1, -1], rtol=1e-4)
    flat = [point.vectors.ravel() for point in points]
    for row, vector in zip(rows, flat, strict=True):
        for field, other in (("cosine_with_start", flat[0]), ("cosine_with_end", flat[-1])):
            expected = vector @ other / np.linalg.norm(vector) / np.linalg.norm(other)
            assert row[field] == pytest.approx(expected, rel=1e-5)
    assert "nearest" not in rows[0]
    assert reports.as_text(report).startswith("r: 3 positions\nstep  from")


def test_neighbours_on_the_way():
    words = random_vocabulary(count=20)
    ids = [[1, 2, 3], [1, 5, 3], [6, 7, 3]]
    points = [Point(i, "checkpoint", words.rows(own)) for i, own in enumerate(ids)]
    report = trajectory.describe(points, words)
    assert [row["nearest_changed"] for row in report["points"]] == [None, 1, 2]
    assert [[token["id"] for token in row["nearest"]] for row in report["points"]] == ids
    lines = reports.as_text(report).splitlines()
    assert lines[-3].split() == ["0", "w1", "w1", "w6"]


def test_a_run_of_another_parameterization(trained, tmp_path):
    mlp = changed(trained, prompt__parameterization="mlp")
    (tmp_path / "config.json").write_text(mlp.to_json())
    with pytest.raises(UserError, match="mlp, whose checkpoints hold no vectors"):
        trajectory.read_config(tmp_path)


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained.workdir, tmp_path / "run"))


def test_no_run(tmp_path):
    with pytest.raises(UserError, match=r"config.json is missing"):
        trajectory.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match="is not the config of a run"):
        trajectory.read_config(tmp_path)


def test_a_run_without_a_prompt(trained, tmp_path):
    tuned = changed(trained, train__method="model_tuning")
    (tmp_path / "config.json").write_text(tuned.to_json())
    with pytest.raises(UserError, match="trained the model and no prompt"):
        trajectory.read_config(tmp_path)


def test_nothing_kept(tmp_path):
    with pytest.raises(UserError, match="neither checkpoints nor a best prompt"):
        trajectory.kept_points(tmp_path)
    with pytest.raises(UserError, match="a trajectory needs two"):
        trajectory.describe([Point(0, "start", np.zeros((1, 2), np.float32))])


@pytest.mark.parametrize("what", ["metadata", "values", "missing", "empty"])
def test_a_damaged_checkpoint(run, what):
    state = run / "checkpoints" / "12" / "state"
    if what == "missing":
        shutil.rmtree(state)
    elif what == "empty":
        shutil.rmtree(run / "checkpoints" / "12")
        (run / "checkpoints" / "12").mkdir()
    elif what == "metadata":
        (state / "_METADATA").write_text("{")
    else:
        for path in [*state.glob("d/*"), *state.glob("ocdbt.process_0/d/*")]:
            path.write_bytes(path.read_bytes()[:20])
    # In a process of its own: orbax abandons its other reads, and Python warns of them at a time of
    # its choice.
    script = (
        "from pathlib import Path\n"
        "from softprompt_jax.analysis import trajectory\n"
        f"trajectory.kept_points(Path({str(run)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "UserError: " in done.stderr
    assert "checkpoints/12 cannot be read" in done.stderr
