"""The bank that a predictor serves from: named prompts in places that come free and fill again."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from softprompt_jax.errors import UserError
from softprompt_jax.inference import compiled
from softprompt_jax.inference.prompt_bank import (
    check_together,
    empty_bank,
    is_alone,
    pad_prefix,
    pad_prompt,
)
from softprompt_jax.models import LanguageModel
from softprompt_jax.models.attention import Past
from softprompt_jax.prompts.soft_prompt import SoftPrompt
from softprompt_jax.prompts.unfolded_prompt import AnyTrainedPrompt

# Places are added so many at a time; one more than is needed is always free at the start, so that a
# prompt can come while the predictor serves without compiling anything.
STEP = 4


class PromptPlaces:
    """Prompts by name, each in a place of the bank.

    Args:
        model: that the prompts are for.
        graphdef: of the model's module.
        state: of the model's module, on the devices.
        sharding: of the bank.
        count: places at least.
        length: of the longest prompt that fits a place, at least 1.

    Attributes:
        bank: as `prompt_bank.make_bank` gives it.
        prompts: by name.
    """

    def __init__(
        self,
        model: LanguageModel,
        graphdef: Any,
        state: Any,
        sharding: Sharding,
        count: int,
        length: int,
    ):
        self._model = model
        self._graphdef = graphdef
        self._state = state
        self._sharding = sharding
        self._place_of: dict[str, int] = {}
        self.prompts: Mapping[str, AnyTrainedPrompt] = {}
        self._make_room(-(-count // STEP) * STEP, length)

    def __contains__(self, name: str) -> bool:
        return name in self._place_of

    def __getitem__(self, name: str) -> int:
        """The place of a prompt.

        Raises:
            UserError: there is none of that name.
        """
        if name not in self._place_of:
            known = ", ".join(self._place_of) or "none"
            raise UserError(f"There is no prompt {name!r}; this predictor has {known}.")
        return self._place_of[name]

    def add(self, name: str, prompt: AnyTrainedPrompt) -> None:
        """Puts a prompt where the one of its name is, or in a free place; makes room if need be.

        Raises:
            UserError: the prompt is made for a model of another shape, or must be alone and is not.
        """
        prompt.check_fits(self._model.config, self._model.name)
        check_together({**self.prompts, name: prompt})
        if name in self and is_alone(self.prompts[name]):
            self.remove(name)
        if name not in self and len(self._place_of) == self._count:
            self._make_room(self._count + STEP, self._length)
        if prompt.length > self._length:
            self._make_room(self._count, prompt.length)
        self._put(name, prompt)

    def remove(self, name: str) -> None:
        """Frees a prompt's place.

        Raises:
            UserError: there is no such prompt.
        """
        _ = self[name]  # refuses a name that is not there
        del self._place_of[name]
        removed = self.prompts[name]
        self.prompts = {each: prompt for each, prompt in self.prompts.items() if each != name}
        if is_alone(removed):
            self._make_room(self._count, self._length)

    def _make_room(self, count: int, length: int) -> None:
        """A larger bank; its prompts are computed anew, since padding is part of their shape."""
        self._count, self._length = count, length
        empty = empty_bank(self._model.module, count, length)
        self.bank: Any = jax.device_put(empty, self._sharding)
        prompts, self.prompts, self._place_of = self.prompts, {}, {}
        for name, prompt in prompts.items():
            self._put(name, prompt)

    def _put(self, name: str, prompt: AnyTrainedPrompt) -> None:
        free = set(range(self._count)) - set(self._place_of.values())
        place = self._place_of[name] if name in self else min(free)
        if is_alone(prompt):
            self.bank = jax.device_put(self._served(prompt), self._sharding)
        else:
            # Of weights in shards the compiler may leave it in shards too.
            one = jax.device_put(self._served(prompt), self._sharding)
            self.bank = compiled.put(self.bank, np.int32(place), one)
        self._place_of[name] = place
        self.prompts = {**self.prompts, name: prompt}

    def _served(self, prompt: AnyTrainedPrompt) -> Any:
        """A bank of one prompt, or all of the bank for one that must be alone."""
        if not isinstance(prompt, SoftPrompt):
            served = prompt.served
            if isinstance(served, Past):
                return pad_prefix(served, self._length, self.bank.layers[0].keys.dtype)
            return served
        padded = jax.device_put(pad_prompt(prompt.vectors, self._length), self._sharding)
        return compiled.bank_of_one(self._graphdef, self._state, padded.vectors, padded.mask)
