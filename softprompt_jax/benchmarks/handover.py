"""Hands model and tokens to the other side: the very weights and ids that ours trains with."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from softprompt_jax.benchmarks.worker import Answerer, serve
from softprompt_jax.benchmarks.workload import Workload, prepare
from softprompt_jax.config import RunConfig
from softprompt_jax.models.saving import save_model
from softprompt_jax.training.setup import resolve_dtype


def start(setup: dict[str, Any]) -> tuple[dict[str, Any], Answerer]:
    """Writes a model folder as transformers reads it, and the training split's tokens.

    A process of its own does it, because the copies would count in our side's peak memory.

    Args:
        setup: `config` as JSON text, `workload` by field, and the existing `folder` that `model/`
            and `tokens.npz` are written into.
    """
    config = RunConfig.from_json(setup["config"])
    folder = Path(setup["folder"])
    platform = jax.default_backend()
    material = prepare(config, Workload(**setup["workload"]))
    model = material.load(None, platform)
    save_model(folder / "model", model)
    np.savez(folder / "tokens.npz", **dataclasses.asdict(material.examples))
    about = {
        "dtype": resolve_dtype(config, platform),
        "encoder_decoder": model.is_encoder_decoder,
        "pad_id": material.model_config.pad_id,
        "prompt_length": config.prompt.length,
        "batch_size": config.train.batch_size,
        "seed": config.seed,
    }
    return about, lambda message: message


if __name__ == "__main__":
    serve(start)
