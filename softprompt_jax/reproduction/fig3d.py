"""Figure 3(d): for how many steps the frozen model was LM-adapted."""

import json
from pathlib import Path

from softprompt_jax.errors import UserError
from softprompt_jax.pretraining.config import PretrainConfig
from softprompt_jax.reproduction.experiment import (
    Context,
    of_size,
    sweep,
    ways_to_answer,
)
from softprompt_jax.reproduction.grid import Point

SHARES = (0.0, 0.1, 0.5, 1.0)
"""Of all steps of LM adaptation: the paper's 0, 10K, 50K and 100K."""

AXIS = "LM adaptation (% of steps)"


def points(context: Context) -> list[Point]:
    """Every size that has stages, at every stage of its adaptation.

    Raises:
        UserError: no size of the preset has stages.
    """
    preset, found = context.preset, []
    for size in preset.sizes:
        if size.adaptation is None:
            continue
        stages = kept_models(size.adaptation, context.folder)
        for share, model in zip(SHARES, stages, strict=True):
            for told, way in ways_to_answer(preset):
                at = {"size": size.label, AXIS: round(100 * share), **told}
                found.append(Point(at, of_size(size, {**way, "model.name": model})))
    if not found:
        raise UserError("fig3d needs a size along its LM adaptation; the preset has none.")
    return found


def kept_models(run: str, folder: Path) -> list[str]:
    """The models that a run of LM adaptation kept, for each of `SHARES`, there or not.

    Args:
        run: the run's folder.
        folder: of all results and runs, which know of the models where the run is gone.
    """
    config = Path(run) / "config.json"
    if config.is_file():
        steps = PretrainConfig.from_json(config.read_text(encoding="utf-8")).train.steps
    else:
        steps = _steps_of_kept_results(run, folder)
    if steps is None:
        return [str(config)] * len(SHARES)  # what is missing, for the reader to be told
    return [str(Path(run) / "kept" / str(round(share * steps))) for share in SHARES]


def _steps_of_kept_results(run: str, folder: Path) -> int | None:
    """Steps of the longest adapted model of a run that prompts were trained for; None without."""
    told = [
        json.loads(path.read_text(encoding="utf-8"))
        for name in ("result.json", "diverged.json")
        for path in folder.glob(f"runs/*/{name}")
    ]
    models = [Path(each["model"]) for each in told]
    return max(
        (int(model.name) for model in models if model.parent == Path(run) / "kept"), default=None
    )


EXPERIMENT = sweep(
    name="fig3d",
    title="Steps of LM adaptation",
    item="figure 3(d)",
    finding="Longer adaptation is better, up to the 100,000 steps tried; XXL is robust.",
    axis=AXIS,
    ordered=True,
    points=points,
)
