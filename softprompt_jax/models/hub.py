"""A model's files from the Hugging Face hub, through its cache.

Only what is needed is fetched: first the config and the tokenizer, so that a mistake shows before
gigabytes are on their way, then the weights in one format.
"""

import fnmatch
import json
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from softprompt_jax.errors import UserError

_DESCRIPTION = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "sentencepiece.model",
    "*.jinja",
)
# In the order of preference; each in one file, or as shards with an index.
_WEIGHTS = (
    ("model.safetensors", "model-*-of-*.safetensors"),
    ("flax_model.msgpack", "flax_model-*-of-*.msgpack"),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
)


def looks_like_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id: "name" or "owner/name"."""
    return re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", name, re.ASCII) is not None


def fetch_description(hub_id: str) -> Path:
    """Fetches config and tokenizer, or finds them in the cache.

    Returns:
        The folder of the snapshot in the hub's cache; its name is the commit.

    Raises:
        UserError: not found, gated, or neither reachable nor in the cache.
    """
    return _snapshot(hub_id, None, list(_DESCRIPTION))


def fetch_weights(hub_id: str, folder: Path) -> Path:
    """Fetches the weights in the best format that there is, unless they are there already.

    Another program may have left those of another format, which do where the hub cannot be asked.

    Raises:
        UserError: the model has no weights in a known format, or as `fetch_description`.
    """
    if _complete(folder, _WEIGHTS[0][0]):
        return folder
    commit = folder.name
    try:
        files = huggingface_hub.HfApi().list_repo_files(hub_id, revision=commit)
    except Exception as error:
        if any(_complete(folder, single) for single, _ in _WEIGHTS):
            return folder
        raise _explain(hub_id, error) from error
    for single, shards in _WEIGHTS:
        if _complete(folder, single):
            return folder
        index = f"{single}.index.json"
        if single in files:
            return _snapshot(hub_id, commit, [single])
        if index in files:
            return _snapshot(hub_id, commit, [index, *fnmatch.filter(files, shards)])
    raise UserError(
        f"{hub_id} has no weights as {', '.join(single for single, _ in _WEIGHTS)}; choose another "
        "model."
    )


def _complete(folder: Path, single: str) -> bool:
    if (folder / single).is_file():
        return True
    try:
        shards = json.loads((folder / f"{single}.index.json").read_text())["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return all((folder / shard).is_file() for shard in shards)


def _snapshot(hub_id: str, revision: str | None, patterns: list[str]) -> Path:
    try:
        return Path(
            huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=patterns)
        )
    except Exception as error:  # the hub's own errors, and those of the network below it
        raise _explain(hub_id, error) from error


def _explain(hub_id: str, error: Exception) -> UserError:
    if isinstance(error, errors.GatedRepoError):
        mend = "is gated; ask for access on its hub page and log in with `hf auth login`"
    elif isinstance(error, errors.RepositoryNotFoundError):
        mend = (
            "is neither a local folder nor found on the Hugging Face hub; check the spelling, and "
            "log in with `hf auth login` if it is private"
        )
    elif isinstance(error, errors.HFValidationError):
        mend = "is no valid hub id; write it as owner/name"
    elif huggingface_hub.constants.is_offline_mode():
        mend = (
            "is not wholly in the local cache and HF_HUB_OFFLINE forbids to fetch it; unset "
            "HF_HUB_OFFLINE, or give a local folder"
        )
    else:
        reason = re.sub(r"\s+", " ", str(error)).strip().rstrip(".")[:200]
        mend = (
            f"could not be fetched from the Hugging Face hub ({type(error).__name__}: {reason}); "
            "check the network connection and try again, or give a local folder"
        )
    return UserError(f"The model {hub_id} {mend}.")
