"""The ways to decode, and options that make none."""

import math
from collections.abc import Callable, Sequence

from softprompt_jax.errors import UserError
from softprompt_jax.inference.compiled import Numbers, Search
from softprompt_jax.inference.sampling import check_sampling


def check_search(
    max_new_tokens: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    beams: int,
    length_penalty: float,
    stop: Sequence[str] | None,
    on_text: Callable[[int, str], None] | None,
) -> tuple[Search, Numbers]:
    """The way to decode, or a UserError where the options make none."""
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
    if beams < 1:
        raise UserError(f"beams is {beams}; it must be at least 1.")
    if not math.isfinite(length_penalty):
        raise UserError(f"length_penalty is {length_penalty}; it must be a finite number.")
    if beams == 1 and length_penalty != 1:
        raise UserError("A length penalty is for a beam search; give 2 beams or more.")
    stop = stop_strings(stop)
    if not 0 <= seed < 2**31:
        raise UserError(f"seed is {seed}; it must be at least 0 and below 2**31.")
    sampled = not (temperature is None and top_k is None and top_p is None)
    if sampled:
        temperature = 1.0 if temperature is None else temperature
        check_sampling(temperature, top_k, top_p)
    if beams > 1 and (sampled or stop or on_text is not None):
        raise UserError("A beam search neither draws, streams nor stops; leave out beams.")
    search = Search(max_new_tokens, sampled, top_k, top_p is not None, beams, length_penalty)
    return search, Numbers(seed, temperature or 1.0, 1.0 if top_p is None else top_p)


def stop_strings(stop: Sequence[str] | None) -> tuple[str, ...]:
    """The strings that end an answer, none for None, or a UserError where they are no strings."""
    listed = () if stop is None or isinstance(stop, str) else tuple(stop)
    if isinstance(stop, str) or not all(isinstance(each, str) and each for each in listed):
        raise UserError(f"stop is {stop!r}; give a list of strings that are not empty.")
    return listed
