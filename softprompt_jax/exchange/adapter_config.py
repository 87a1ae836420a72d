"""PEFT's adapter_config.json: made for a prompt, or read and checked."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from softprompt_jax.errors import UserError
from softprompt_jax.exchange.outside import read_json_object
from softprompt_jax.models.language_model import LanguageModel
from softprompt_jax.models.loading import ModelFiles, resolve_model
from softprompt_jax.prompts.reparameterizations import EncoderDecoderPrefix, LayerPrefix
from softprompt_jax.prompts.soft_prompt import SoftPrompt
from softprompt_jax.prompts.unfolded_prompt import AnyTrainedPrompt, UnfoldedPrompt

CONFIG_FILE = "adapter_config.json"
PEFT_VERSION = "0.21.2"  # whose format is written

HUB_NAMES = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Names that only this package knows, to where PEFT finds the like."""

_COMMON_KEYS = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "modules_to_save"),
    *("num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens"),
    *("peft_type", "peft_version", "revision", "task_type", "token_dim"),
}
# How a prompt started and what computed it while it was trained: neither is in its vectors.
_OWN_KEYS = {
    "PROMPT_TUNING": {
        *("prompt_tuning_init", "prompt_tuning_init_text"),
        *("tokenizer_kwargs", "tokenizer_name_or_path"),
    },
    "P_TUNING": {
        *("encoder_dropout", "encoder_hidden_size", "encoder_num_layers"),
        "encoder_reparameterization_type",
    },
    "PREFIX_TUNING": {"encoder_hidden_size", "init_weights", "prefix_projection"},
}
_NO_PROMPTS = {
    "MULTITASK_PROMPT_TUNING": "it computes a prompt for each of several tasks",
    "CPT": "its vectors are offsets to the tokens of a text",
    "CARTRIDGE": "part of its keys and values is frozen",
}


def make_config(
    prompt: AnyTrainedPrompt,
    *,
    model: LanguageModel | ModelFiles | None = None,
    base_model: str | None = None,
) -> dict[str, Any]:
    """The content of the adapter_config.json of a prompt; its keys are those of PEFT.

    Args:
        prompt: to be exported.
        model: what the prompt is for; None: the model on its card, whose config is read.
        base_model: what `base_model_name_or_path` says; None: the model on the prompt's card.

    Raises:
        UserError: the model is not known or found or has another shape, or PEFT has no such prompt.
    """
    if not isinstance(prompt, SoftPrompt) and not isinstance(prompt.module, LayerPrefix):
        reason = "adds offsets to the input's embeddings, which no adapter of PEFT does"
        if isinstance(prompt.module, EncoderDecoderPrefix):
            reason = "has other layers than PEFT's, which gives T5's encoder none"
        raise UserError(
            f"This {prompt.kind!r} prompt cannot be a PEFT adapter: it {reason}; export a plain "
            "prompt, or the prefix of a causal model."
        )
    on_card = _line(prompt.card.get("model"))
    if model is None:
        if on_card is None:
            raise UserError("The prompt's card names no model; give the model (--model).")
        model = resolve_model(on_card)
    prompt.check_fits(model.config, model.name)
    trained_on = on_card or model.name
    # The revision on the card is that of the model on the card.
    revision = None if base_model else _line(prompt.card.get("model_revision"))
    is_t5 = model.config.is_encoder_decoder
    common = {
        "auto_mapping": None,
        "base_model_name_or_path": base_model or HUB_NAMES.get(trained_on, trained_on),
        "inference_mode": True,
        "modules_to_save": None,
        "num_attention_heads": model.config.n_heads,
        "num_layers": model.config.n_layers,
        # PEFT would expect a second half of rows for T5, which it never uses.
        "num_transformer_submodules": 1,
        "num_virtual_tokens": prompt.length,
        "peft_version": PEFT_VERSION,
        "revision": revision,
        "task_type": "SEQ_2_SEQ_LM" if is_t5 else "CAUSAL_LM",
    }
    if isinstance(prompt, UnfoldedPrompt) and isinstance(prompt.module, LayerPrefix):
        _, heads, _, width = prompt.module.keys.shape
        return common | {
            "encoder_hidden_size": heads * width,
            "init_weights": None,
            "num_attention_heads": heads,
            "peft_type": "PREFIX_TUNING",
            "prefix_projection": False,
            "token_dim": heads * width,
        }
    return common | {
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "token_dim": model.config.d_model,
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }


class PrefixShape(NamedTuple):
    """Of the keys and values of a prefix.

    Attributes:
        layers: of the model, or of its decoder.
        heads: of keys and values.
        width: of a head.
    """

    layers: int
    heads: int
    width: int


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What an adapter_config.json says, checked.

    Attributes:
        path: of the file.
        raw: all of it.
        task_type: "SEQ_2_SEQ_LM" or "CAUSAL_LM".
        length: virtual tokens.
        rows: of the stored tensor.
        width: of its rows; None: not told.
        prefix: of PREFIX_TUNING.
    """

    path: Path
    raw: Mapping[str, Any]
    task_type: str
    length: int
    rows: int
    width: int | None
    prefix: PrefixShape | None = None


def read_config(folder: Path) -> Adapter:
    """Reads and checks a folder's adapter_config.json.

    Raises:
        UserError: it is missing or damaged, of another type than PROMPT_TUNING, P_TUNING or
            PREFIX_TUNING, lacks `task_type`, contradicts itself, or sets what this version does not
            know.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        inner = sorted(each.parent.name for each in folder.glob(f"*/{CONFIG_FILE}"))
        mend = f"give its folder {' or '.join(inner[:5])}" if inner else "give an adapter's folder"
        raise UserError(f"There is no PEFT adapter in {folder}: {CONFIG_FILE} is missing; {mend}.")
    raw = read_json_object(path)
    peft_type = _check_type(path, raw)
    task_type = _check_task_type(path, raw)
    known = _COMMON_KEYS | _OWN_KEYS[peft_type]
    # A key that is off says nothing; one that is on may change what PEFT computes.
    strange = sorted(key for key in raw.keys() - known if raw[key] not in (None, False, "", [], {}))
    if strange:
        names = ", ".join(repr(key[:40]) for key in strange[:5])
        raise UserError(
            f"{path} sets {names}, which this version does not know; remove it from the file if "
            "the prompt's vectors are all that there is."
        )
    if raw.get("modules_to_save"):
        raise UserError(
            f"{path} has modules_to_save, so the adapter is more than a prompt; train it without "
            "them."
        )
    for key in ("base_model_name_or_path", "revision"):
        if raw.get(key) and _line(raw[key]) is None:
            raise UserError(f"{path} has a {key} that is no line of text; mend the file.")
    length = _whole(path, raw, "num_virtual_tokens")
    if length is None:
        raise UserError(f"{path} does not say num_virtual_tokens; mend the file.")
    halves = _whole(path, raw, "num_transformer_submodules")
    default = 2 if task_type == "SEQ_2_SEQ_LM" else 1
    if (halves or default) > default:
        raise UserError(
            f"{path} has num_transformer_submodules {halves}, but a {task_type} adapter has "
            f"{default} at most; mend the file."
        )
    width = _whole(path, raw, "token_dim")
    if peft_type == "PREFIX_TUNING":
        if halves not in (None, default):
            raise UserError(
                f"{path} has num_transformer_submodules {halves}, with which PEFT's T5 confuses "
                "the prefix with the input; mend the file."
            )
        shape = _prefix_shape(path, raw, width)
        stored = 2 * shape.layers * shape.heads * shape.width
        return Adapter(path, raw, task_type, length, length, stored, shape)
    return Adapter(path, raw, task_type, length, length * (halves or default), width)


def _prefix_shape(path: Path, raw: Mapping[str, Any], width: int | None) -> PrefixShape:
    layers, heads = (_whole(path, raw, key) for key in ("num_layers", "num_attention_heads"))
    if layers is None or heads is None or width is None or width % heads:
        raise UserError(
            f"{path} does not say num_layers, num_attention_heads and token_dim, a multiple of the "
            "heads; mend the file."
        )
    return PrefixShape(layers, heads, width // heads)


def _check_type(path: Path, raw: Mapping[str, Any]) -> str:
    peft_type = raw.get("peft_type")
    if isinstance(peft_type, str) and peft_type in _OWN_KEYS:
        return peft_type
    *first, last = _OWN_KEYS
    known = f"{', '.join(first)} or {last}"
    if not isinstance(peft_type, str):
        raise UserError(f"{path} has no peft_type; give a {known} adapter.")
    reason = _NO_PROMPTS.get(peft_type, "it is no soft prompt that this version knows")
    raise UserError(
        f"{path} is a {peft_type[:40]!r} adapter, which cannot be read: {reason}; give a {known} "
        "adapter."
    )


def _check_task_type(path: Path, raw: Mapping[str, Any]) -> str:
    task_type = raw.get("task_type")
    if task_type in ("SEQ_2_SEQ_LM", "CAUSAL_LM"):
        return task_type
    if task_type is None:
        raise UserError(
            f"{path} has no task_type, so PEFT loads the adapter and silently never uses its "
            'prompt; set it to "SEQ_2_SEQ_LM" for T5, else to "CAUSAL_LM".'
        )
    raise UserError(
        f"{path} has the task_type {_told(task_type)}, but only SEQ_2_SEQ_LM and CAUSAL_LM "
        "adapters are prompts of a language model; choose another."
    )


def _whole(path: Path, raw: Mapping[str, Any], key: str) -> int | None:
    """A whole number from 1 on that 32 bits hold, or None where there is none."""
    value = raw.get(key)
    if value is None or (type(value) is int and 1 <= value < 2**31):
        return value
    raise UserError(
        f"{path} has {key} {_told(value)}, which is no whole number from 1 on; mend the file."
    )


def _line(value: Any) -> str | None:
    """A name that somebody wrote into a file, or None where it is none."""
    return value if isinstance(value, str) and value and value.isprintable() else None


def _told(value: Any) -> str:
    """A value out of a file for a message."""
    return repr(value)[:40] if isinstance(value, str | float) else f"of type {type(value).__name__}"


def check_kind(adapter: Adapter, model: LanguageModel | ModelFiles) -> None:
    """Refuses a T5's adapter for a causal model, and the reverse.

    Raises:
        UserError: so it is.
    """
    expected = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    if adapter.task_type != expected:
        raise UserError(
            f"{adapter.path} is an adapter of a {adapter.task_type} model, but {model.name} takes "
            f"{expected}; use the model that it was trained for."
        )
