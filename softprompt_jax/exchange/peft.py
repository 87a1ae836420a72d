"""PEFT's adapter folders, both ways: adapter_config.json and adapter_model.safetensors.

A folder that is written here also holds prompt.json, the prompt's card, and README.md. PEFT reads
neither; `import_peft` takes the card back, unless the vectors have changed since.

References:
    The files of peft 0.21.2, as its `save_pretrained` writes and `from_pretrained` reads them.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from softprompt_jax.errors import UserError
from softprompt_jax.exchange.adapter_config import (
    CONFIG_FILE,
    Adapter,
    check_kind,
    make_config,
    read_config,
)
from softprompt_jax.exchange.card import model_card
from softprompt_jax.exchange.hub import fetch
from softprompt_jax.exchange.outside import (
    check_size,
    check_vectors,
    damaged,
    read_json_object,
)
from softprompt_jax.exchange.peft_prefix import prefix_of_rows, rows_of_prefix
from softprompt_jax.files import check_replaceable, expand_user, recover_folder, replace_folder
from softprompt_jax.models.hub import looks_like_hub_id
from softprompt_jax.models.language_model import LanguageModel
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.models.tensor_files import SafetensorsSource, TorchSource
from softprompt_jax.prompts.reparameterizations import LayerPrefix
from softprompt_jax.prompts.soft_prompt import CARD_FILE, FORMAT, SoftPrompt, printable
from softprompt_jax.prompts.unfolded_prompt import AnyTrainedPrompt, UnfoldedPrompt

TENSOR_FILE = "adapter_model.safetensors"
TORCH_FILE = "adapter_model.bin"
README_FILE = "README.md"

TENSOR = "prompt_embeddings"
DIGEST = "vectors_sha256"


# ----------------------------------------------------------------------------------------- export


def export_peft(
    prompt: AnyTrainedPrompt,
    folder: str | Path,
    *,
    model: LanguageModel | ModelFiles | None = None,
    base_model: str | None = None,
    license: str = "unknown",
    neighbours: Sequence[Sequence[str]] = (),
) -> None:
    """Writes a folder that `PeftModel.from_pretrained` loads, with equal logits.

    The tensor is `prompt_embeddings` `[length, d_model]`, for T5 with one row a position
    (`num_transformer_submodules` 1), or of a causal model's prefix `[length, 2 L G K]`
    (`peft_prefix`). A folder that was exported before is replaced whole.

    Args:
        prompt: to be written.
        folder: where to.
        model: what the prompt is for; None: the model on its card, whose config is read.
        base_model: what `base_model_name_or_path` says; None: the model on the prompt's card.
        license: for README.md: the hub's name of the prompt's licence, such as "apache-2.0".
        neighbours: for README.md: for each position the nearest words of the vocabulary.

    Raises:
        UserError: PEFT has no such prompt, the model is not known or found or has another shape,
            the vectors are not finite, or there is something else in the folder, which would be
            lost.
    """
    config = make_config(prompt, model=model, base_model=base_model)
    readme = model_card(prompt, config, license=license, neighbours=neighbours)
    write_adapter(prompt, config, Path(folder), readme)


def check_adapter_replaceable(folder: Path) -> None:
    """Refuses to replace a folder that holds anything but an adapter of ours.

    Raises:
        UserError: there is something else in the folder, which would be lost.
    """
    known = (CONFIG_FILE, CARD_FILE)
    check_replaceable(folder, "an exported prompt", known, (*known, TENSOR_FILE, README_FILE))


def write_adapter(
    prompt: AnyTrainedPrompt, config: Mapping[str, Any], folder: Path, readme: str
) -> None:
    """Writes a folder of PEFT's layout with our card, whole or not at all.

    Args:
        prompt: to be written.
        config: as `make_config` gives it.
        folder: where to.
        readme: content of README.md.

    Raises:
        UserError: the vectors are not finite, or there is something else in the folder.
    """
    folder = folder.absolute()
    check_adapter_replaceable(folder)
    card = {**prompt.card, "format": FORMAT, "length": prompt.length}
    if isinstance(prompt, SoftPrompt):
        vectors = check_vectors(prompt.vectors, "memory")
        card["d_model"] = vectors.shape[1]
    else:
        assert isinstance(prompt.module, LayerPrefix)
        vectors = check_vectors(rows_of_prefix(prompt.module), "memory")
        card["kind"] = prompt.kind
    card[DIGEST] = _digest(vectors)
    texts = {
        CONFIG_FILE: json.dumps(config, indent=2, sort_keys=True),
        CARD_FILE: json.dumps(card, indent=2) + "\n",
        README_FILE: readme,
    }
    with replace_folder(folder) as fresh:
        safetensors.numpy.save_file({TENSOR: vectors}, fresh / TENSOR_FILE, {"format": "pt"})
        for name, text in texts.items():
            (fresh / name).write_text(text, encoding="utf-8")


# ----------------------------------------------------------------------------------------- import


def import_peft(
    source: str | Path,
    *,
    model: LanguageModel | ModelFiles | None = None,
    revision: str | None = None,
) -> AnyTrainedPrompt:
    """Reads a PROMPT_TUNING, P_TUNING or PREFIX_TUNING adapter of a T5 or a causal model.

    PEFT's T5 adapters have a second half of rows by default, which it trains with zero gradients
    and never uses: only the first half is taken, and standard error says so. What computed a prefix
    (`prefix_projection`) is not in the file: the prefix is.

    Args:
        source: a folder, or "owner/name" on the hub.
        model: what the prompt is for, to be checked; None: whatever the adapter says.
        revision: of the repository on the hub: branch, tag or commit; None: main.

    Returns:
        The prompt; of PREFIX_TUNING an `UnfoldedPrompt`. Its card is the one that `export_peft`
        wrote, or has the base model's name as `model` and the adapter's own facts as `peft`.

    Raises:
        UserError: there is no adapter, it is damaged or of another type, it lacks `task_type` (PEFT
            then ignores the prompt), its numbers contradict each other, or it does not fit the
            model.
    """
    folder = expand_user(source)
    recover_folder(folder)
    if folder.exists() or not (looks_like_hub_id(str(source)) and "/" in str(source)):
        return read_adapter(folder, lambda: folder, model)
    snapshot = fetch(str(source), [CONFIG_FILE, CARD_FILE], revision)
    return read_adapter(snapshot, lambda: fetch_weights(str(source), snapshot), model)


def fetch_weights(repo_id: str, snapshot: Path) -> Path:
    """Fetches an adapter's tensors beside what was fetched of it before."""
    return fetch(repo_id, [TENSOR_FILE, TORCH_FILE], snapshot.name)


def read_adapter(
    folder: Path,
    weights_folder: Callable[[], Path],
    model: LanguageModel | ModelFiles | None = None,
) -> AnyTrainedPrompt:
    """As `import_peft`.

    Args:
        folder: where adapter_config.json is.
        weights_folder: gives the folder of the tensors, once the config is found to be of use.
        model: as for `import_peft`.
    """
    adapter = read_config(folder)
    if model is not None:
        check_kind(adapter, model)
    rows = _read_rows(weights_folder(), adapter)
    if len(rows) > adapter.length:
        print(
            f"note: {adapter.path} has {len(rows)} rows for {adapter.length} positions; PEFT never "
            "uses the second half, and it is left out.",
            file=sys.stderr,
        )
    vectors = rows[: adapter.length]
    card = _card(folder, adapter, vectors)
    prompt: AnyTrainedPrompt
    if adapter.prefix is None:
        prompt = SoftPrompt(jnp.asarray(vectors), card)
    else:
        prompt = UnfoldedPrompt(prefix_of_rows(vectors, adapter, adapter.prefix), card)
    if model is not None:
        prompt.check_fits(model.config, model.name)
    return prompt


def _read_rows(folder: Path, adapter: Adapter) -> np.ndarray:
    """The stored tensor as float32 [rows, width], first compared with what the config says."""
    path = next(
        (folder / name for name in (TENSOR_FILE, TORCH_FILE) if (folder / name).is_file()), None
    )
    if path is None:
        raise UserError(f"{adapter.path} has no {TENSOR_FILE} beside it; fetch the adapter again.")
    check_size(path)
    source = (SafetensorsSource if path.name == TENSOR_FILE else TorchSource)(path)
    try:
        shapes = source.names()
        if set(shapes) != {TENSOR}:
            names = ", ".join(sorted(str(name)[:80] for name in shapes)[:5]) or "nothing"
            raise UserError(
                f"{path} should hold {TENSOR} alone, but holds {names}; an adapter of more than a "
                "prompt cannot be read."
            )
        shape = shapes[TENSOR]
        width = adapter.width if adapter.width is not None else shape[-1] if shape else 0
        if shape != (adapter.rows, width):
            told = " (2 for each virtual token)" if adapter.rows > adapter.length else ""
            raise UserError(
                f"{path} has a tensor of shape {list(shape)}, but {adapter.path.name} says "
                f"[{adapter.rows}, {width}]{told}; PEFT would refuse it too, so mend the numbers."
            )
        # A torch tensor may claim to be larger than what lies in its file.
        if adapter.rows * width > path.stat().st_size:
            raise UserError(f"{path} is too short for its tensor of shape {list(shape)}.")
        array = source.read(TENSOR)
    except UserError:
        raise
    except Exception as error:  # whatever torch and safetensors meet in a tensor of strange type
        raise damaged(path, error) from None
    finally:
        source.close()
    return check_vectors(array, path)


def _card(folder: Path, adapter: Adapter, vectors: np.ndarray) -> dict[str, Any]:
    """The card that was exported with these vectors, or what the adapter says."""
    path = folder / CARD_FILE
    if path.is_file():
        card = printable(read_json_object(path))
        if card.pop(DIGEST, None) == _digest(vectors):
            return card
        print(
            f"note: {path} describes other vectors than those of the adapter, and is left out.",
            file=sys.stderr,
        )
    facts = ("peft_type", "task_type", "prompt_tuning_init", "encoder_reparameterization_type")
    named = {
        "model": adapter.raw.get("base_model_name_or_path"),
        "model_revision": adapter.raw.get("revision"),
    }
    return {
        **{key: value for key, value in named.items() if value},
        "peft": {key: adapter.raw[key] for key in facts if adapter.raw.get(key) is not None},
    }


def _digest(vectors: np.ndarray) -> str:
    """Tells these vectors from others: SHA-256 of float32 little-endian rows, as hex."""
    return hashlib.sha256(np.ascontiguousarray(vectors, "<f4").tobytes()).hexdigest()
