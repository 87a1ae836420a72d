"""A preset whose runs take a second or two: tiny random models and a task of a few rows."""

import dataclasses
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file
from small_runs import sentiment_rows, small_config, write_rows
from tiny_models import make_tiny

from softprompt_jax.config import TaskOptions
from softprompt_jax.reproduction.presets import Preset, Size

LAYERS = {"num_layers": 1, "num_decoder_layers": 1}


def tiny_preset(folder: Path, tasks: int = 1, **changes: Any) -> Preset:
    """Models, data and a recipe in a folder.

    Args:
        folder: may hold them already.
        tasks: how many.
        **changes: of the preset.
    """
    config = small_config(
        folder,
        train__steps=4,
        train__evaluate_every=2,
        task__test_file=str(folder / "test.jsonl"),
    )
    if not (folder / "wide").exists():
        make_tiny(folder / "wide", "t5", d_model=64, **LAYERS)
    options = [config.task]
    for number in range(1, tasks):
        split = {
            f"{name}_file": str(write_rows(folder / f"{name}{number}.jsonl", rows))
            for name, rows in (
                ("train", sentiment_rows(24, 10 * number)),
                ("validation", sentiment_rows(24, 10 * number + 1)),
            )
        }
        options.append(TaskOptions(name=f"sentiment{number}", max_target_length=4, **split))
    preset = Preset(
        name="tiny",
        about="random models",
        sizes=(Size("narrow", str(folder / "t5")), Size("wide", str(folder / "wide"))),
        tasks=tuple(options),
        recipe=config,
        model_tuning={"train.method": "model_tuning", "optimizer.learning_rate": 0.001},
        seeds=(0, 1),
        shots=2,
    )
    return dataclasses.replace(preset, **changes)


def number_of_weights(model: Path) -> int:
    """As its file has them."""
    return sum(values.size for values in load_file(model / "model.safetensors").values())
