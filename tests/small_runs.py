"""Runs that take seconds: a tiny random model and a task of a few JSONL rows."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp
from tiny_models import WORDS, make_tiny

from softprompt_jax.config import (
    ModelOptions,
    OptimizerOptions,
    ParallelOptions,
    PromptOptions,
    RunConfig,
    TaskOptions,
    TrainOptions,
)
from softprompt_jax.models import load_model
from softprompt_jax.prompts import PromptedModel

ONE_LAYER = {
    "t5": {"num_layers": 1, "num_decoder_layers": 1},
    "llama": {"num_hidden_layers": 1},
    "gpt2": {"n_layer": 1},
}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sentiment_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Two labels, told apart by one word; inputs of differing lengths."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = generator.choice(["positive", "negative"])
        word = generator.choice(["good", "great"] if label == "positive" else ["bad", "awful"])
        fillers = generator.choice(WORDS[17:27], generator.integers(1, 4))
        rows.append({"input": " ".join([*fillers, "film", word]), "target": str(label)})
    return rows


def small_config(folder: Path, family: str = "t5", **changes: Any) -> RunConfig:
    """A run of 12 steps on one device; model and data are made in `folder` unless they are there.

    Args:
        folder: of the model, the data and the run ("run").
        family: of the model.
        **changes: options by dotted name with "__" for the dot, as in `train__steps=5`.
    """
    model = folder / family
    if not model.exists():
        make_tiny(model, family, **ONE_LAYER[family])
    for seed, split in enumerate(("train", "validation", "test")):
        if not (folder / f"{split}.jsonl").exists():
            write_rows(folder / f"{split}.jsonl", sentiment_rows(24, seed))
    config = RunConfig(
        workdir=str(folder / "run"),
        model=ModelOptions(name=str(model), dtype="float32"),
        prompt=PromptOptions(length=4, init="random_uniform"),
        task=TaskOptions(
            name="sentiment",
            train_file=str(folder / "train.jsonl"),
            validation_file=str(folder / "validation.jsonl"),
            max_target_length=4,
        ),
        optimizer=OptimizerOptions(),
        train=TrainOptions(steps=12, batch_size=8, evaluate_every=4, log_every=1, max_shapes=1),
        parallel=ParallelOptions(devices=1),
    )
    return changed(config, **changes)


def changed(config: RunConfig, **changes: Any) -> RunConfig:
    """The config with some options replaced: `train__steps=5`, `workdir="…"`."""
    return config.replaced({name.replace("__", "."): value for name, value in changes.items()})


def write_recipe(config: RunConfig, folder: Path) -> Path:
    """A config as the command reads it."""
    (folder / "recipe.json").write_text(config.to_json())
    recipe = folder / "recipe.py"
    recipe.write_text(
        "from pathlib import Path\n"
        "from softprompt_jax.config import RunConfig\n"
        "config = RunConfig.from_json((Path(__file__).parent / 'recipe.json').read_text())\n"
    )
    return recipe


def prompted_tiny(folder: Path, family: str, length: int | None = 4) -> PromptedModel:
    """A tiny random model that wears a random prompt; none with length None."""
    if not folder.exists():
        make_tiny(folder, family, **ONE_LAYER[family])
    model = load_model(str(folder))
    if length is None:
        return PromptedModel(model.module, None)
    vectors = np.random.default_rng(0).uniform(-0.5, 0.5, (length, model.d_model))
    return PromptedModel(model.module, jnp.asarray(vectors, jnp.float32))


def random_batch(rows: int, inputs: int = 7, targets: int = 5, seed: int = 0) -> dict[str, Any]:
    """Rows with very different numbers of real tokens, the longest targets first."""
    generator = np.random.default_rng(seed)
    input_lengths = generator.integers(1, inputs + 1, (rows, 1))
    target_lengths = -np.sort(-generator.integers(1, targets + 1, (rows, 1)), axis=0)
    return {
        "inputs": generator.integers(4, 100, (rows, inputs)).astype(np.int32),
        "input_mask": np.arange(inputs)[None] < input_lengths,
        "targets": generator.integers(4, 100, (rows, targets)).astype(np.int32),
        "target_mask": np.arange(targets)[None] < target_lengths,
        "prompt_ids": np.zeros(rows, np.int32),
    }


def metrics_lines(workdir: Path | str) -> list[dict[str, Any]]:
    """metrics.jsonl without timings and memory."""
    text = (Path(workdir) / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return [
        {
            name: value
            for name, value in line.items()
            if "per_second" not in name and not name.startswith("memory/")
        }
        for line in lines
    ]


def checkpoint_bits(workdir: Path, step: int) -> dict[str, bytes]:
    """Bytes of everything that a checkpoint holds of the devices, by path."""
    path = workdir / "checkpoints" / str(step)
    # As numpy arrays: the devices that wrote it may be others than those here.
    leaves: Any = ocp.metadata(path, checkpointable_name="state").metadata
    like = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    state: Any = ocp.load(path, like, checkpointable_name="state")
    return {name: np.asarray(leaf).tobytes() for name, leaf in state.items()}


def trace_events(folder: Path) -> list[dict[str, Any]]:
    """Of the only trace in a run's profile folder, as Perfetto reads it."""
    (path,) = folder.glob("plugins/profile/*/*.trace.json.gz")
    assert list(path.parent.glob("*.xplane.pb"))  # what TensorBoard reads
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
