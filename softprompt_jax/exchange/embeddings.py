"""A prompt and a text as the one matrix of embeddings that serving programs take.

vLLM takes no soft prompts, but whole embedded inputs (`enable_prompt_embeds=True`):

    embeds = safetensors.torch.load_file("request.safetensors")["prompt_embeds"]
    llm.generate({"prompt_embeds": embeds})

transformers takes the same rows as `inputs_embeds` (with a batch axis). There is no way back: where
the prompt ends and the text begins is not in the file.
"""

import io
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Float

from softprompt_jax.data.tokenization import encode_inputs
from softprompt_jax.errors import UserError
from softprompt_jax.exchange.outside import check_vectors
from softprompt_jax.files import write_bytes
from softprompt_jax.models.language_model import LanguageModel
from softprompt_jax.prompts.soft_prompt import SoftPrompt

TENSOR = "prompt_embeds"


def embed_with_prompt(
    prompt: SoftPrompt, model: LanguageModel, text: str
) -> Float[np.ndarray, "length+tokens d_model"]:
    """The prompt's vectors, then the text's embeddings, float32.

    Args:
        prompt: as wide as the model.
        model: whose tokenizer and embeddings are used; on T5 the rows are the encoder's.
        text: the input as the task words it; tokenised as in training and prediction.

    Raises:
        UserError: the prompt has another width, the text has no tokens, or the model does not read
            so many positions.
    """
    prompt.check_fits(model.config, model.name)
    (ids,), _ = encode_inputs([text], model.tokenizer, model.config, None)
    limit = model.config.max_positions
    if limit is not None and prompt.length + len(ids) >= limit:
        raise UserError(
            f"The prompt has {prompt.length} positions and the text {len(ids)} tokens, but "
            f"{model.name} reads {limit} at most, the answer included; shorten the text."
        )
    embedded = model.module.embed(jnp.asarray(ids, jnp.int32)[None])[0].astype(jnp.float32)
    vectors = check_vectors(prompt.vectors, "memory")
    return np.concatenate([vectors, np.asarray(embedded)])


def export_embeddings(
    prompt: SoftPrompt, file: str | Path, *, model: LanguageModel, text: str
) -> None:
    """Writes `embed_with_prompt` to a file.

    Args:
        prompt: as wide as the model.
        file: ends with .safetensors (tensor `prompt_embeds`) or .npy; float32
            `[length + tokens, d_model]` either way.
        model: as for `embed_with_prompt`.
        text: as for `embed_with_prompt`.

    Raises:
        UserError: the file's name ends differently, or as `embed_with_prompt`.
    """
    path = Path(file)
    check_suffix(path)
    rows = embed_with_prompt(prompt, model, text)
    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, rows, allow_pickle=False)
        data = buffer.getvalue()
    else:
        data = safetensors.numpy.save({TENSOR: rows})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)


def check_suffix(path: Path) -> None:
    """Refuses a file of embeddings in another format.

    Raises:
        UserError: its name ends neither with .safetensors nor with .npy.
    """
    if path.suffix not in (".safetensors", ".npy"):
        raise UserError(
            f"Embeddings are written as .safetensors or .npy, not as {path.name}; rename it."
        )
