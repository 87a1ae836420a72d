"""The bank that a predictor serves from: named prompts in places that come free and fill again."""

import itertools
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from softprompt_jax.errors import UserError
from softprompt_jax.inference import compiled
from softprompt_jax.inference.prompt_bank import (
    check_prompt,
    check_together,
    empty_bank,
    grow_bank,
    is_alone,
    pad_prefix,
    pad_prompt,
)
from softprompt_jax.models import LanguageModel
from softprompt_jax.models.attention import Past
from softprompt_jax.prompts.soft_prompt import SoftPrompt
from softprompt_jax.prompts.unfolded_prompt import AnyTrainedPrompt, UnfoldedPrompt

# Places are added so many at a time; one more than is needed is always free at the start, so that a
# prompt can come while the predictor serves without compiling anything.
STEP = 4


class Served(NamedTuple):
    """The prompts of one moment. It never changes, and nor do the arrays of its bank.

    Attributes:
        bank: as `prompt_bank.make_bank` gives it; or what a prompt that must be alone is served as.
        prompts: by name.
        places: of the prompts in the bank, by name.
        size: number of places.
        length: of the longest prompt that fits a place.
    """

    bank: Any
    prompts: Mapping[str, AnyTrainedPrompt]
    places: Mapping[str, int]
    size: int
    length: int

    @property
    def shortest(self) -> int:
        """Length of the shortest prompt."""
        return min(prompt.length for prompt in self.prompts.values())

    def check_name(self, name: str) -> None:
        """Refuses the name of no prompt.

        Raises:
            UserError: there is none of that name.
        """
        if name not in self.places:
            known = ", ".join(self.places) or "none"
            raise UserError(f"There is no prompt {name!r}; this predictor has {known}.")

    def names_for(self, asked: str | Sequence[str] | None, texts: int) -> list[str]:
        """The name of each text's prompt.

        Args:
            asked: a name for each text, one for all, or None where there is only one prompt.
            texts: number of texts.

        Raises:
            UserError: a prompt is not there, or it is not said which one is meant.
        """
        if asked is None and not texts:
            return []
        if asked is None:
            if len(self.prompts) != 1:
                known = ", ".join(self.prompts)
                told = f"several prompts ({known})" if known else "no prompts; add"
                raise UserError(f"There are {told}; name one for each text.")
            asked = next(iter(self.prompts))
        names = [asked] * texts if isinstance(asked, str) else list(asked)
        if len(names) != texts:
            raise UserError(f"There are {texts} texts but {len(names)} prompts; give one for each.")
        for name in dict.fromkeys(names):
            self.check_name(name)
        return names


class PromptPlaces:
    """Prompts by name, each in a place of the bank.

    Any thread may add and remove prompts while others read `now`.

    Args:
        model: that the prompts are for.
        graphdef: of the model's module.
        state: of the model's module, on the devices.
        sharding: of the bank.
        places: that there are at least.
        length: of the longest prompt that fits a place, at least 1.

    Attributes:
        now: what is served. Each change puts another in its stead once all of it is there, so that
            reading takes no lock and a change that fails changes nothing. Who reads it once has a
            bank and places that belong together.
    """

    def __init__(
        self,
        model: LanguageModel,
        graphdef: Any,
        state: Any,
        sharding: Sharding,
        places: int,
        length: int,
    ):
        self._model = model
        self._graphdef = graphdef
        self._state = state
        self._sharding = sharding
        self._changing = threading.Lock()
        size = _whole_steps(places)
        self.now = Served(self._empty(size, length), {}, {}, size, length)

    def add(self, prompts: Mapping[str, AnyTrainedPrompt]) -> None:
        """Puts each prompt where the one of its name is, or in a free place; makes room if need be.

        Raises:
            UserError: as `check_prompt`, or one of them must be alone and is not. All is as before
                then.
        """
        for name, prompt in prompts.items():
            check_prompt(name, prompt, self._model.config, self._model.name)
        with self._changing:
            self.now = self._with(self.now, prompts)

    def remove(self, name: str) -> None:
        """Frees a prompt's place.

        Raises:
            UserError: there is no such prompt.
        """
        with self._changing:
            now = self.now
            now.check_name(name)
            prompts, places = dict(now.prompts), dict(now.places)
            del places[name]
            bank = now.bank
            if is_alone(prompts.pop(name)):
                bank = self._empty(now.size, now.length)
            self.now = now._replace(bank=bank, prompts=prompts, places=places)

    def _with(self, now: Served, prompts: Mapping[str, AnyTrainedPrompt]) -> Served:
        together = {**now.prompts, **prompts}
        check_together(together)
        places = dict(now.places)
        free = (place for place in itertools.count() if place not in now.places.values())
        for name in prompts:
            if name not in places:
                places[name] = next(free)
        size = max(now.size, _whole_steps(1 + max(places.values(), default=-1)))
        length = max([now.length, *(prompt.length for prompt in prompts.values())])
        bank = now.bank
        if any(map(is_alone, now.prompts.values())):
            bank = self._empty(size, length)
        elif (size, length) != (now.size, now.length):
            grown = grow_bank(self._model.module, bank, size, length)
            bank = jax.device_put(grown, self._sharding)
        put = compiled.put
        for name, prompt in prompts.items():
            if isinstance(prompt, UnfoldedPrompt) and is_alone(prompt):
                bank = jax.device_put(prompt.served, self._sharding)
                continue
            # Of weights in shards the compiler may leave it in shards too.
            one = jax.device_put(self._bank_of(prompt, length, bank), self._sharding)
            bank = put(bank, np.int32(places[name]), one)
            put = compiled.put_in_place  # from now on it is a copy that nobody else has
        return Served(bank, together, places, size, length)

    def _empty(self, size: int, length: int) -> Any:
        return jax.device_put(empty_bank(self._model.module, size, length), self._sharding)

    def _bank_of(self, prompt: AnyTrainedPrompt, length: int, bank: Any) -> Any:
        """A bank of one prompt, for a place of the bank."""
        if isinstance(prompt, SoftPrompt):
            padded = jax.device_put(pad_prompt(prompt.vectors, length), self._sharding)
            return compiled.bank_of_one(self._graphdef, self._state, padded.vectors, padded.mask)
        served = prompt.served
        assert isinstance(served, Past), "others are alone"
        return pad_prefix(served, length, bank.layers[0].keys.dtype)


def _whole_steps(places: int) -> int:
    return -(-places // STEP) * STEP
