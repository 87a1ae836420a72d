"""Figure 3(a): how long a prompt has to be."""

from softprompt_jax.reproduction.experiment import of_size, sweep
from softprompt_jax.reproduction.grid import Point
from softprompt_jax.reproduction.presets import Preset

LENGTHS = (1, 5, 20, 100, 150)

AXIS = "prompt length (tokens)"


def points(preset: Preset) -> list[Point]:
    """Every size with every length."""
    return [
        Point({"size": size.label, AXIS: length}, of_size(size, {"prompt.length": length}))
        for size in preset.sizes
        for length in LENGTHS
    ]


EXPERIMENT = sweep(
    name="fig3a",
    title="Prompt length",
    item="figure 3(a)",
    finding="More than one token is critical except for XXL; beyond 20 the gain is marginal, and "
    "beyond 100 it is mildly harmful for larger models.",
    axis=AXIS,
    ordered=True,
    points=lambda context: points(context.preset),
)
