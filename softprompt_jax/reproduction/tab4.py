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

# As printed, for the lengths of LENGTHS: trained, all, percent. Misprints are in MISPRINTS.
_PRINTED: Mapping[str, tuple[tuple[int, int, float], ...]] = {
    "Small": (
        (512, 76_961_664, 0.00067),
        (2_560, 76_963_712, 0.00333),
        (10_420, 76_971_572, 0.01330),
        (25_600, 76_986_752, 0.03325),
        (51_200, 77_012_352, 0.06648),
        (76_800, 77_037_952, 0.09969),
    ),
    "Base": (
        (768, 247_578_624, 0.00031),
        (3_840, 247_581_696, 0.00155),
        (15_360, 247_593_216, 0.00620),
        (38_400, 247_616_256, 0.01551),
        (76_800, 247_654_656, 0.03101),
        (115_200, 247_693_056, 0.04651),
    ),
    "Large": (
        (1_024, 783_151_104, 0.00013),
        (5_120, 783_155_200, 0.00065),
        (20_480, 783_170_560, 0.00262),
        (51_200, 783_201_280, 0.00654),
        (102_400, 783_252_480, 0.01907),
        (153_600, 783_303_680, 0.01961),
    ),
    "XL": (
        (2_048, 2_849_759_232, 0.00007),
        (10_240, 2_849_767_424, 0.00036),
        (40_960, 2_849_798_144, 0.00143),
        (102_400, 2_849_859_584, 0.00359),
        (204_800, 2_849_961_984, 0.00718),
        (307_200, 2_850_064_384, 0.01078),
    ),
    "XXL": (
        (4_096, 11_135_336_448, 0.00004),
        (20_480, 11_135_352_832, 0.00018),
        (81_920, 11_135_414_272, 0.00074),
        (204_800, 11_137_380_352, 0.00184),
        (409_600, 11_135_741_952, 0.00368),
        (614_400, 11_135_946_752, 0.00552),
    ),
}

MISPRINTS = [
    "The paper prints 10,420 trained parameters for Small and length 20, and a total with them; 20 "
    "times 512 are 10,240.",
    "The paper prints 0.01907 % for Large and length 100; 102,400 of 783,252,480 are 0.01307 %.",
    "The paper prints a total of 11,137,380,352 for XXL and length 50; it is 11,135,537,152.",
]

PERCENT = "trained (%)"


def compute(_: Context) -> Result:
    """Counts every size and length."""
    rows, models = [], {}
    for size, name in SIZES.items():
        config = model_config(name)
        frozen = parameter_count(config)
        models[size] = {"names": [name], "parameters": frozen}
        trained, total = _PRINTED[size][0][:2]
        paper = Published(total - trained, "table 4, total less the prompt")
        rows.append(_row(size, None, "frozen", frozen, paper))
        for length, printed in zip(LENGTHS, _PRINTED[size], strict=True):
            trained = length * config.d_model
            total = trained + frozen
            counts = {"trained": trained, "together": total, PERCENT: 100 * trained / total}
            for (count, ours), papers in zip(counts.items(), printed, strict=True):
                rows.append(_row(size, length, count, ours, Published(papers, "table 4")))
    notes = [*MISPRINTS, "Other differences of shares are the paper's rounding, some of it down."]
    return Result(rows, unit="parameters", decimals=5, models=models, notes=notes)


def _row(size: str, length: int | None, count: str, ours: float, paper: Published) -> Row:
    return Row({"size": size, "length": length or "", "count": count}, Value(ours), paper)


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
