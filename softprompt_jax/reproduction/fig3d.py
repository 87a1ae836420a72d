"""Figure 3(d): for how many steps the frozen model was LM-adapted. It writes its answers."""

from pathlib import Path

from softprompt_jax.errors import UserError
from softprompt_jax.pretraining.config import PretrainConfig
from softprompt_jax.reproduction.experiment import NO_NUMBERS, WRITTEN, of_size, sweep, written
from softprompt_jax.reproduction.grid import Point
from softprompt_jax.reproduction.presets import Preset

SHARES = (0.0, 0.1, 0.5, 1.0)
"""Of all steps of LM adaptation: the paper's 0, 10K, 50K and 100K."""

AXIS = "LM adaptation (% of steps)"


def points(preset: Preset) -> list[Point]:
    """Every size that has them at every stage of its adaptation.

    Raises:
        UserError: a model of a stage is missing, or no size of the preset has stages.
    """
    found = []
    for size in preset.sizes:
        if size.adaptation is None:
            continue
        stages = kept_models(size.label, size.adaptation)
        for share, model in zip(SHARES, stages, strict=True):
            coordinates = {"size": size.label, AXIS: round(100 * share)}
            found.append(
                Point(coordinates, of_size(size, {**written(preset), "model.name": model}))
            )
    if not found:
        raise UserError("fig3d needs a size along its LM adaptation; the preset has none.")
    return found


def kept_models(label: str, run: str) -> list[str]:
    """The models that a run of LM adaptation kept, for each of `SHARES`.

    Args:
        label: of the model, for the error.
        run: the run's folder.

    Raises:
        UserError: the run or one of the models is missing.
    """
    config = Path(run) / "config.json"
    if not config.is_file():
        raise UserError(
            f"fig3d needs {label} as it was along its LM adaptation, but there is no run in "
            f"{run}; make it with softprompt_jax.pretrain, or name the folder with --family."
        )
    steps = PretrainConfig.from_json(config.read_text(encoding="utf-8")).train.steps
    models = []
    for share in SHARES:
        model = Path(run) / "kept" / str(round(share * steps))
        if not model.is_dir():
            raise UserError(
                f"fig3d needs {model}, the model after {share:.0%} of the adaptation, which is not "
                "there; let the run of softprompt_jax.pretrain end, with --train.keep_steps."
            )
        models.append(str(model))
    return models


EXPERIMENT = sweep(
    name="fig3d",
    title="Steps of LM adaptation",
    item="figure 3(d)",
    finding="Longer adaptation is better, up to the 100,000 steps tried; XXL is robust.",
    axis=AXIS,
    ordered=True,
    points=points,
    notes=(NO_NUMBERS, WRITTEN),
)
