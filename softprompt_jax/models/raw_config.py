"""Reading a parsed config.json with errors that name the key."""

from collections.abc import Iterable, Mapping
from typing import Any

from softprompt_jax.errors import UserError


def check_model_type(raw: Mapping[str, Any], supported: Iterable[str]) -> str:
    """Returns `model_type`.

    Raises:
        UserError: the type is not among those supported, or the weights are quantised.
    """
    model_type = raw.get("model_type")
    supported = tuple(supported)
    if model_type not in supported:
        raise UserError(
            f"The model's type {model_type!r} (model_type in its config.json) is not supported: "
            f"choose a model of type {', '.join(supported)}."
        )
    if raw.get("quantization_config"):
        quantization = raw["quantization_config"]
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
        raise UserError(
            "The model's weights are quantised (quantization_config in its config.json, method "
            f"{method!r}): choose the unquantised model."
        )
    return model_type


def size(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Returns a size.

    Args:
        raw: the parsed file.
        key: of the size.
        default: what null stands for, or a missing key; None: there has to be one.

    Raises:
        UserError: there is none, or it is no whole number above 0.
    """
    value = raw.get(key)
    if value is None:
        if default is None:
            raise UserError(
                f"The model's config.json has no {key!r}: add it, or fetch the file anew."
            )
        return default
    if type(value) is not int or value < 1:
        raise UserError(
            f"The model's config.json has {value!r} for {key!r}, which must be a whole number "
            "above 0: mend it, or fetch the file anew."
        )
    return value


def epsilon(raw: Mapping[str, Any], key: str, default: float) -> float:
    """Returns what a norm adds to a variance.

    Raises:
        UserError: it is no number.
    """
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(
            f"The model's config.json has {value!r} for {key!r}, which must be a number: mend it, "
            "or fetch the file anew."
        )
    return value


def token_ids(value: int | list[int] | None) -> tuple[int, ...]:
    """A token id, a list of them or None, as a tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def padding_id(raw: Mapping[str, Any], vocab_size: int, eos_ids: tuple[int, ...]) -> int:
    """The id that fills padding in a causal model's batches.

    Many causal models name none (null or -1). Padding is masked, so any id gives the same result;
    the end-of-sequence id is the usual one.
    """
    pad_id = raw.get("pad_token_id")
    if pad_id is not None and 0 <= pad_id < vocab_size:
        return pad_id
    return eos_ids[0] if eos_ids else 0
