"""Figure 3(c): what the frozen model was pre-trained to do.

The middle setting puts a sentinel before each target, so that a model that has only ever filled in
spans is asked for what it knows to give.
"""

from softprompt_jax.errors import UserError
from softprompt_jax.reproduction.experiment import of_size, sweep, ways_to_answer
from softprompt_jax.reproduction.grid import Point
from softprompt_jax.reproduction.presets import Preset

SENTINEL = "<extra_id_0> "

AXIS = "pre-training objective"


def points(preset: Preset) -> list[Point]:
    """Every size that has it: span-corrupted only, the same with a sentinel, and LM-adapted.

    Raises:
        UserError: no size of the preset has a model without LM adaptation.
    """
    found = []
    for size in preset.sizes:
        if size.corrupted is None:
            continue
        corrupted = {"model.name": size.corrupted}
        for objective, changes in (
            ("span corruption", corrupted),
            ("span corruption + sentinel", {**corrupted, "task.target_prefix": SENTINEL}),
            ("LM adaptation", {}),
        ):
            for told, way in ways_to_answer(preset):
                at = {"size": size.label, AXIS: objective, **told}
                found.append(Point(at, of_size(size, {**way, **changes})))
    if not found:
        raise UserError("fig3c needs a size without LM adaptation; the preset has none.")
    return found


EXPERIMENT = sweep(
    name="fig3c",
    title="Pre-training objective",
    item="figure 3(c)",
    finding="LM adaptation is best at all sizes; a sentinel hardly helps span-corrupted models, of "
    "which only two of five sizes work at all, and Small beats Base, Large and XL.",
    axis=AXIS,
    ordered=False,
    points=lambda context: points(context.preset),
)
