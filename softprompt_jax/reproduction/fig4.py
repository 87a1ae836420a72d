"""Figure 4: how many parameters a task takes by each method, counted.

The paper shows bands (mean and standard deviation over prompt and prefix lengths of 1 to 100) and
no formulas; these are the ones used here, for a T5 of L encoder and L decoder layers of width E and
attention width H, with a prompt or prefix of P positions:

- model tuning: all parameters.
- prefix tuning: keys and values at P positions of every layer's self-attention, 2·2L·H·P, which is
  what a task keeps. While training they come out of an MLP with a hidden layer of 512 from P
  vectors of width E (Li and Liang 2021, section 4.3): E·P + 512·(E + 1) + (512 + 1)·2·2L·H.
- WARP: P vectors at the input and one a class at the output, E·(P + C), C = 2 (Hambardzumyan et al.
  2021).
- prompt tuning: E·P.
- prompt design: the ids of a text of 500 to 2,000 tokens.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from softprompt_jax.models.families import parameter_count
from softprompt_jax.models.known_shapes import model_config
from softprompt_jax.models.t5_config import T5Config
from softprompt_jax.reproduction.experiment import Context, Experiment
from softprompt_jax.reproduction.figures import MARKERS, Told, plain_numbers, size_axis
from softprompt_jax.reproduction.published import MODEL_TUNING
from softprompt_jax.reproduction.results import Result, Row, Value
from softprompt_jax.reproduction.tab4 import SIZES

LENGTHS = range(1, 101)
IDS = range(500, 2001)

PREFIX_HIDDEN = 512
CLASSES = 2


def prefix_inference(config: T5Config, length: int) -> int:
    """Keys and values of every layer."""
    return length * _prefix_width(config)


def prefix_training(config: T5Config, length: int) -> int:
    """The MLP that makes them, and its inputs."""
    hidden = PREFIX_HIDDEN * (config.d_model + 1) + (PREFIX_HIDDEN + 1) * _prefix_width(config)
    return length * config.d_model + hidden


def _prefix_width(config: T5Config) -> int:
    layers = config.n_layers + config.n_decoder_layers
    return 2 * layers * config.n_heads * config.head_width


def warp(config: T5Config, length: int) -> int:
    """Vectors at the input, and one a class at the output."""
    return config.d_model * (length + CLASSES)


def prompt_tuning(config: T5Config, length: int) -> int:
    """Vectors at the input."""
    return config.d_model * length


def prompt_design(_: T5Config, ids: int) -> int:
    """Ids of a text."""
    return ids


METHODS: dict[str, tuple[Callable[[T5Config, int], int], Sequence[int]]] = {
    "prefix tuning (training)": (prefix_training, LENGTHS),
    "prefix tuning (inference)": (prefix_inference, LENGTHS),
    "WARP": (warp, LENGTHS),
    "prompt tuning": (prompt_tuning, LENGTHS),
    "prompt design": (prompt_design, IDS),
}


def compute(_: Context) -> Result:
    """The share of every method at every size."""
    rows, models = [], {}
    for size, name in SIZES.items():
        config = model_config(name)
        assert isinstance(config, T5Config)
        total = parameter_count(config)
        models[size] = {"names": [name], "parameters": total}
        rows.append(Row({"method": MODEL_TUNING, "size": size}, Value(100.0)))
        for method, (count, lengths) in METHODS.items():
            shares = [100 * count(config, length) / total for length in lengths]
            value = Value(statistics.fmean(shares), statistics.pstdev(shares))
            rows.append(Row({"method": method, "size": size}, value))
    return Result(
        rows,
        unit="parameters of a task (% of the model's)",
        decimals=5,
        models=models,
        notes=[
            "Mean ± standard deviation over lengths of 1 to 100 (prompt design: 500 to 2,000 ids).",
            "The paper gives no formulas; those used here are in softprompt_jax/reproduction/"
            "fig4.py, and its figure prints no numbers.",
        ],
    )


def draw(figure: Any, told: Told) -> None:
    """A band a method, over the models' parameters."""
    axes = figure.subplots()
    for i, method in enumerate((MODEL_TUNING, *METHODS)):
        own = [row for row in told["rows"] if row["coordinates"]["method"] == method]
        x = [told["models"][row["coordinates"]["size"]]["parameters"] for row in own]
        means = [row["ours"]["mean"] for row in own]
        spread = [row["ours"]["deviation"] or 0.0 for row in own]
        axes.plot(x, means, f"{MARKERS[i]}-", color=f"C{i}", label=method)
        low = [mean - wide for mean, wide in zip(means, spread, strict=True)]
        high = [mean + wide for mean, wide in zip(means, spread, strict=True)]
        axes.fill_between(x, low, high, color=f"C{i}", alpha=0.2)
    axes.set(yscale="log", ylabel=told["unit"])
    plain_numbers(axes.yaxis)
    size_axis(axes, told["models"], list(told["models"]))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.3)


EXPERIMENT = Experiment(
    name="fig4",
    title="Parameters of a task by method",
    item="figure 4",
    finding="Prefix tuning takes 0.1 to 1 % at inference and more in training, WARP under 0.1 %, "
    "prompt tuning under 0.01 % for models of over a billion parameters.",
    compute=compute,
    draw=draw,
)
