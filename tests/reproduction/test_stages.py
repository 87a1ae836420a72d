"""Figures 3(c) and 3(d), which need a model's stages of pre-training, on tiny models."""

import dataclasses
import shutil

import pytest
from reproduction.tiny_preset import number_of_weights, tiny_preset
from tiny_models import make_tiny

from softprompt_jax.config import ModelOptions, TrainOptions
from softprompt_jax.errors import UserError
from softprompt_jax.pretraining.config import PretrainConfig
from softprompt_jax.reproduction import fig3c, fig3d, grid
from softprompt_jax.reproduction.experiment import Context
from softprompt_jax.reproduction.presets import PAPER, SMALL, Size


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models and data."""
    return tmp_path_factory.mktemp("stages")


def test_stages_of_pre_training_answer_among_labels_and_write():
    """Small presets train among labels; these two figures are of the paper's loss as well."""
    assert SMALL.recipe.train.loss == "labels"
    for point in fig3c.points(SMALL):
        config = SMALL.recipe.replaced(point.changes)
        is_written = point.coordinates["answers"] == "written"
        told = ("tokens", "generate") if is_written else ("labels", None)
        assert (config.train.loss, config.task.evaluation) == told
    for point in fig3c.points(PAPER):
        config = PAPER.recipe.replaced(point.changes)
        assert (config.train.loss, config.task.evaluation) == ("tokens", None)
        assert "answers" not in point.coordinates


STAGES = (0, 3, 15, 30)


def make_stages(run):
    """A run of LM adaptation, and in `best` beside it what it began with."""
    config = PretrainConfig(model=ModelOptions(name="x"), train=TrainOptions(steps=30))
    run.mkdir(parents=True)
    (run / "config.json").write_text(config.to_json())
    for step in STAGES:
        make_tiny(run / "kept" / str(step), num_layers=1, num_decoder_layers=1, seed=step)
    make_tiny(run / "best", num_layers=1, num_decoder_layers=1, seed=31)


def staged(folder, family, label):
    return Size(
        label,
        str(folder / "t5"),
        corrupted=str(family / label / "best"),
        adaptation=str(family / label),
    )


@pytest.mark.slow
def test_stages_are_needed_for_training_only(folder, tmp_path, monkeypatch):
    run = tmp_path / "family" / "there"
    make_stages(run)
    sizes = (
        staged(folder, run.parent, "there"),
        staged(folder, run.parent, "gone"),
        Size("never", str(folder / "t5")),
    )
    context = Context(tiny_preset(folder, sizes=sizes, seeds=(0,)), tmp_path / "out")
    experiments = (fig3c.EXPERIMENT, fig3d.EXPERIMENT)
    objectives, stages = (experiment.compute(context) for experiment in experiments)
    written = [row for row in stages.rows if row.coordinates["answers"] == "written"]
    assert [row.coordinates[fig3d.AXIS] for row in written] == [0, 10, 50, 100]
    runs = [each for each in stages.runs if each["coordinates"]["answers"] == "written"]
    names = [each["config"]["model"]["name"] for each in runs]
    assert names == [str(run / "kept" / str(step)) for step in STAGES]
    assert {each["config"]["task"]["evaluation"] for each in runs} == {"generate"}
    assert len(stages.runs) == 2 * len(runs)
    assert len({each["model_fingerprint"] for each in stages.runs}) == 4
    assert [row.coordinates["size"] for row in objectives.rows] == ["there"] * 6
    for result, missing in ((objectives, "best"), (stages, "config.json")):
        assert "Without never, of which there are no such models." in result.notes
        assert f"Without gone: {run.parent}/gone/{missing} is not there." in result.notes
        assert result.models["there"]["parameters"] == number_of_weights(folder / "t5")

    # Kept results are enough where the stages are gone.
    shutil.rmtree(run.parent)
    monkeypatch.setattr(grid, "train", lambda _: pytest.fail("trained again"))
    assert [experiment.compute(context) for experiment in experiments] == [objectives, stages]
    # Without results of a stage its size is left out, here as the last one.
    for each in (objectives.runs[0], stages.runs[4]):
        shutil.rmtree(each["folder"])
    with pytest.raises(UserError, match=r"^fig3c needs .*/there/best, which is not there; make it"):
        fig3c.EXPERIMENT.compute(context)
    with pytest.raises(UserError, match=r"^fig3d needs .*/there/kept/15, which is not there"):
        fig3d.EXPERIMENT.compute(context)


def test_who_makes_the_stages_is_told(folder, tmp_path):
    preset = tiny_preset(folder, sizes=(staged(folder, tmp_path, "gone"),))
    for experiment, missing in ((fig3c, "best"), (fig3d, "config.json")):
        with pytest.raises(
            UserError,
            match=f"needs {tmp_path}/gone/{missing}, .*tools/pretrain_family.py, .*--family",
        ):
            experiment.EXPERIMENT.compute(Context(preset, tmp_path / "out"))
    sizes = (Size("t5", "google/t5-small-lm-adapt", adaptation=str(tmp_path / "t5-lm")),)
    with pytest.raises(UserError, match=r"make it by .*softprompt_jax\.pretrain with configs"):
        fig3d.EXPERIMENT.compute(Context(dataclasses.replace(PAPER, sizes=sizes), tmp_path))
