"""What both sides of the prediction benchmark read: one model folder and the same prompts."""

from pathlib import Path
from typing import Any

import numpy as np

from softprompt_jax.benchmarks.worker import Answerer, serve
from softprompt_jax.data.tokenization import encode_choices
from softprompt_jax.errors import UserError
from softprompt_jax.models import resolve_model
from softprompt_jax.models.saving import save_model
from softprompt_jax.prompts.soft_prompt import SoftPrompt


def start(setup: dict[str, Any]) -> tuple[dict[str, Any], Answerer]:
    """Writes a model folder as transformers reads it, and the vectors of the prompts.

    The folder's config names no end of sequence, so that every answer has all its tokens on
    whatever side.

    Args:
        setup: `model`, a name or folder; `prompts`, their number; `prompt_length`; `choices`, the
            answers to score; and the existing `folder` that `model/` and `prompts.npy`, float32
            [prompts, prompt_length, d_model], are written into.

    Raises:
        UserError: the model is an encoder-decoder, or choices have several tokens; found before
            the weights are read.
    """
    files = resolve_model(setup["model"])
    config: Any = files.config
    if config.is_encoder_decoder:
        raise UserError(
            f"{setup['model']} is an encoder-decoder, but bench predict compares causal models; "
            "choose one of these with --model."
        )
    choices = encode_choices(setup["choices"], files.load_tokenizer(), config)
    if any(len(ids) != 1 for ids in choices):
        raise UserError(
            f"The choices {' and '.join(setup['choices'])} are not one token each for "
            f"{setup['model']}, as bench predict needs them; choose another --model."
        )
    model = files.load("float32")
    folder = Path(setup["folder"])
    # Untrained prompts: speed does not depend on what they say.
    prompts = [
        SoftPrompt.create(model, setup["prompt_length"], "sampled_vocab", seed=seed).vectors
        for seed in range(setup["prompts"])
    ]
    np.save(folder / "prompts.npy", np.stack(prompts))
    model.raw_config["eos_token_id"] = None
    save_model(folder / "model", model)
    about = {"pad_id": config.pad_id, "choice_ids": [ids[0] for ids in choices]}
    return about, lambda message: message


if __name__ == "__main__":
    serve(start)
