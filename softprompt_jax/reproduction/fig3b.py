"""Figure 3(b): how a prompt starts."""

from softprompt_jax.reproduction.experiment import of_size, sweep
from softprompt_jax.reproduction.grid import Point
from softprompt_jax.reproduction.presets import Preset

INITIALISERS = {
    "random uniform": "random_uniform",
    "sampled vocabulary": "sampled_vocab",
    "class labels": "class_labels",
}

AXIS = "initialisation"


def points(preset: Preset) -> list[Point]:
    """Every size with every start."""
    return [
        Point({"size": size.label, AXIS: words}, of_size(size, {"prompt.init": init}))
        for size in preset.sizes
        for words, init in INITIALISERS.items()
    ]


EXPERIMENT = sweep(
    name="fig3b",
    title="Prompt initialisation",
    item="figure 3(b)",
    finding="Class labels are best; the differences are large for small models and gone at XXL.",
    axis=AXIS,
    ordered=False,
    points=lambda context: points(context.preset),
)
