"""Prompts as bare .npy files, as google-research/prompt-tuning keeps them.

Such a file holds float32 `[length, d_model]` in C order and nothing else: no model, task or labels.
"""

import io
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from softprompt_jax.exchange.outside import check_size, check_vectors, damaged
from softprompt_jax.files import write_bytes
from softprompt_jax.models.language_model import LanguageModel
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts.soft_prompt import SoftPrompt


def export_npy(prompt: SoftPrompt, file: str | Path) -> None:
    """Writes a prompt's vectors as float32 `[length, d_model]`; its card is left behind.

    Raises:
        UserError: the vectors are not finite.
    """
    buffer = io.BytesIO()
    vectors = check_vectors(prompt.vectors, "memory")
    np.lib.format.write_array(buffer, vectors, allow_pickle=False)
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def import_npy(file: str | Path, *, model: LanguageModel | ModelFiles | None = None) -> SoftPrompt:
    """Reads a prompt's vectors, rounded to float32 where they are finer.

    Args:
        file: as `export_npy` or the original code wrote it.
        model: what the prompt is for, to be checked and named on the card; None: unknown.

    Raises:
        UserError: the file is missing or damaged, holds no matrix of finite floats, or is as wide
            as no prompt of the model.
    """
    path = Path(file)
    check_size(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks of numpy's parser on strange headers
            # A map, because it compares the size that the header claims with that of the file.
            array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy lets through whatever its parser of headers meets
        raise damaged(path, error) from None
    vectors = jnp.asarray(check_vectors(array, path))
    if model is None:
        return SoftPrompt(vectors, {"imported_from": path.name})
    prompt = SoftPrompt(vectors, {"model": model.name, "imported_from": path.name})
    prompt.check_fits(model.config, model.name)
    return prompt
