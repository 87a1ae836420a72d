"""Table 4: parameters that are trained, and all of them, counted.

The counts follow from the models' shapes alone, so they are the same at every preset.
"""

from collections.abc import Mapping
from typing import Any

from softprompt_jax.models.families import parameter_count
from softprompt_jax.models.known_shapes import model_config
from softprompt_jax.reproduction.experiment import Context, Experiment
from softprompt_jax.reproduction.figures import Told, plain_numbers, size_axis
from softprompt_jax.reproduction.presets import PAPER
from softprompt_jax.reproduction.results import Published, Result, Row, Value

LENGTHS = (1, 5, 20, 50, 100, 150)

SIZES: Mapping[str, str] = {size.label: size.model for size in PAPER.sizes}

_FROZEN = {
    "Small": 76_961_152,
    "Base": 247_577_856,
    "Large": 783_150_080,
    "XL": 2_849_757_184,
    "XXL": 11_135_332_352,
}
_TRAINED = {
    ("Small", 20): 10_420,  # a misprint
    ("Small", 100): 51_200,
    ("Base", 100): 76_800,
    ("Large", 100): 102_400,
    ("XL", 100): 204_800,
    ("XXL", 100): 409_600,
}
_PERCENT = {("Large", 100): 0.01907}  # a misprint

MISPRINTS = [
    "The paper prints 10,420 trained parameters for Small and length 20; 20 times 512 are 10,240.",
    "The paper prints 0.01907 % for Large and length 100; 102,400 of 783,252,480 are 0.01307 %.",
    "The paper's total for XXL and length 50 is misprinted; it is 11,135,537,152.",
]

PERCENT = "trained (%)"


def compute(_: Context) -> Result:
    """Counts every size and length."""
    rows, models = [], {}
    for size, name in SIZES.items():
        config = model_config(name)
        frozen = parameter_count(config)
        models[size] = {"names": [name], "parameters": frozen}
        source = "table 4, total less the prompt"
        paper = Published(_FROZEN[size], source)
        rows.append(_row(size, None, "frozen", frozen, paper))
        for length in LENGTHS:
            trained = length * config.d_model
            total = trained + frozen
            paper = _published(_TRAINED, size, length)
            rows.append(_row(size, length, "trained", trained, paper))
            rows.append(_row(size, length, "together", total, None))
            paper = _published(_PERCENT, size, length)
            rows.append(_row(size, length, PERCENT, 100 * trained / total, paper))
    notes = [*MISPRINTS, "Values of the paper stand where they were checked for this project."]
    return Result(rows, unit="parameters", decimals=5, models=models, notes=notes)


def _row(size: str, length: int | None, count: str, ours: float, paper: Published | None) -> Row:
    return Row({"size": size, "length": length or "", "count": count}, Value(ours), paper)


def _published(
    printed: Mapping[tuple[str, int], float], size: str, length: int
) -> Published | None:
    value = printed.get((size, length))
    return None if value is None else Published(value, "table 4")


def draw(figure: Any, told: Told) -> None:
    """The trained share over the models' parameters, a line a length."""
    axes = figure.subplots()
    for i, length in enumerate(LENGTHS):
        at = [
            (told["models"][row["coordinates"]["size"]]["parameters"], row["ours"]["mean"])
            for row in told["rows"]
            if (row["coordinates"]["length"], row["coordinates"]["count"]) == (length, PERCENT)
        ]
        axes.plot(*zip(*at, strict=True), "o-", color=f"C{i}", label=str(length))
    axes.set(yscale="log", ylabel=PERCENT)
    plain_numbers(axes.yaxis)
    size_axis(axes, told["models"], list(told["models"]))
    axes.legend(title="prompt length (tokens)", loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.3)


EXPERIMENT = Experiment(
    name="tab4",
    title="Parameters of prompts",
    item="table 4",
    finding="A prompt of 100 tokens is 0.07 % of the parameters at Small and 0.004 % at XXL.",
    compute=compute,
    draw=draw,
)
