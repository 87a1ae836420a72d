"""One frozen model, many prompts: each row of a batch brings its own."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from softprompt_jax.data import TokenizedExamples, evaluation_batches, plan_shapes
from softprompt_jax.data.tokenization import encode_choices, encode_inputs, pad_rows
from softprompt_jax.errors import UserError
from softprompt_jax.inference.decoding import greedy
from softprompt_jax.inference.scoring import choice_log_likelihoods
from softprompt_jax.models import LanguageModel, load_model
from softprompt_jax.prompts.prompted_model import RowPrompts
from softprompt_jax.prompts.soft_prompt import SoftPrompt


class Predictor:
    """Answers texts with a frozen model and any number of prompts, mixed in one batch.

    Args:
        model: the frozen model.
        prompts: prompts of any lengths, by name.
        batch_size: rows a batch.
        max_shapes: input lengths that are compiled at most, for one call.

    Raises:
        UserError: there is no prompt, or one is made for a model of another width.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Mapping[str, SoftPrompt],
        *,
        batch_size: int = 16,
        max_shapes: int = 6,
    ):
        if not prompts:
            raise UserError("A Predictor needs at least one prompt; give a dict of them.")
        for prompt in prompts.values():
            prompt.check_fits(model.config, model.name)
        self.model = model
        self.batch_size = batch_size
        self.max_shapes = max_shapes
        self._index = {name: i for i, name in enumerate(prompts)}
        longest = max(prompt.length for prompt in prompts.values())
        vectors = np.zeros((len(prompts), longest, model.d_model), np.float32)
        mask = np.zeros((len(prompts), longest), bool)
        for i, prompt in enumerate(prompts.values()):
            # Shorter prompts are padded on the left: each ends directly before the text.
            vectors[i, longest - prompt.length :] = prompt.vectors
            mask[i, longest - prompt.length :] = True
        self._bank = jax.device_put((vectors, mask))
        self._graphdef, self._state = nnx.split(model.module)

    @staticmethod
    def load(model: str, prompts: Mapping[str, str | Path], dtype: str = "float32") -> "Predictor":
        """A predictor from names and folders.

        Args:
            model: as for `load_model`.
            prompts: prompt folders by name.
            dtype: as for `load_model`.

        Raises:
            UserError: as `load_model` and `SoftPrompt.load`.
        """
        loaded = {name: SoftPrompt.load(folder) for name, folder in prompts.items()}
        return Predictor(load_model(model, dtype), loaded)

    def score(
        self,
        texts: Sequence[str],
        choices: Sequence[str],
        prompts: str | Sequence[str] | None = None,
    ) -> Float[np.ndarray, "n n_choices"]:
        """Log-likelihood of each choice as the answer to each text.

        Args:
            texts: inputs, as the task words them.
            choices: possible answers.
            prompts: a prompt's name for each text, one name for all, or None where there is only
                one prompt.

        Returns:
            float32 `[texts, choices]`, in nats, summed over a choice's tokens. These have no end of
            sequence unless one choice begins another.

        Raises:
            UserError: an unknown prompt, as many names as texts are missing, or an empty text.
        """
        if isinstance(choices, str):
            raise UserError("The choices are a single string; give a list of strings.")
        ids = encode_choices(choices, self.model.tokenizer, self.model.config)
        choices_CxT, choice_mask_CxT = pad_rows(ids)
        result = np.zeros((len(texts), len(choices)), np.float32)
        self._run(
            texts,
            prompts,
            result,
            lambda rows, names: _score(
                self._graphdef, self._state, self._bank, rows, names, choices_CxT, choice_mask_CxT
            ),
            answer_length=choices_CxT.shape[1],
        )
        return result

    def generate(
        self,
        texts: Sequence[str],
        prompts: str | Sequence[str] | None = None,
        max_new_tokens: int = 32,
    ) -> list[str]:
        """Greedy answers.

        Args:
            texts: inputs, as the task words them.
            prompts: as for `score`.
            max_new_tokens: tokens of an answer at most.

        Returns:
            The answers' texts without special tokens and outer white space.

        Raises:
            UserError: as `score`.
        """
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
        result = np.zeros((len(texts), max_new_tokens), np.int32)
        self._run(
            texts,
            prompts,
            result,
            lambda rows, names: _generate(
                self._graphdef, self._state, self._bank, rows, names, max_new_tokens
            ),
            answer_length=max_new_tokens,
        )
        if not texts:  # transformers decodes an empty batch to one empty text
            return []
        answers = self.model.tokenizer.batch_decode(result, skip_special_tokens=True)
        return [answer.strip() for answer in answers]

    def _run(
        self,
        texts: Sequence[str],
        prompts: str | Sequence[str] | None,
        result: np.ndarray,
        function: Any,
        answer_length: int,
    ) -> None:
        """Fills `result` row by row: texts grouped by length, every batch queued, one fetch."""
        if isinstance(texts, str):
            raise UserError("The texts are a single string; give a list of strings.")
        names = self._names(prompts, len(texts))
        if not texts:
            return
        config = self.model.config
        rows, _ = encode_inputs(texts, self.model.tokenizer, config)
        longest = max(map(len, rows)) + self._bank[1].shape[1] + answer_length
        if config.family == "gpt2" and longest > config.max_positions:
            raise UserError(
                f"Prompt, text and answer have up to {longest} tokens together, but "
                f"{self.model.name} reads {config.max_positions} at most; shorten the texts."
            )
        examples = TokenizedExamples.from_rows(rows, [[0]] * len(rows))
        shapes = plan_shapes(examples.input_lengths, examples.target_lengths, self.max_shapes)
        queued = []
        for batch, index in evaluation_batches(examples, shapes, self.batch_size):
            inputs = {name: batch[name] for name in ("inputs", "input_mask")}
            queued.append((index, function(inputs, names[index])))
        for index, output in jax.device_get(queued):
            real = index >= 0
            result[index[real]] = output[real]

    def _names(self, prompts: str | Sequence[str] | None, count: int) -> np.ndarray:
        """The place in the bank of each text's prompt, int32."""
        if prompts is None:
            if len(self._index) > 1:
                raise UserError(
                    f"There are several prompts ({', '.join(self._index)}); name one for each text."
                )
            prompts = next(iter(self._index))
        names = [prompts] * count if isinstance(prompts, str) else list(prompts)
        if len(names) != count:
            raise UserError(f"There are {count} texts but {len(names)} prompts; give one for each.")
        for name in names:
            if name not in self._index:
                raise UserError(
                    f"There is no prompt {name!r}; this predictor has {', '.join(self._index)}."
                )
        return np.asarray([self._index[name] for name in names], np.int32)


def _row_prompts(bank: tuple[jax.Array, jax.Array], names_B: jax.Array) -> RowPrompts:
    vectors, mask = bank
    return RowPrompts(vectors[names_B], mask[names_B])


@functools.partial(jax.jit, static_argnums=0)
def _score(graphdef, state, bank, rows, names_B, choices_CxT, choice_mask_CxT):
    model = nnx.merge(graphdef, state)
    prompts = _row_prompts(bank, names_B)
    return choice_log_likelihoods(model, rows, choices_CxT, choice_mask_CxT, prompts)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _generate(graphdef, state, bank, rows, names_B, max_new_tokens):
    model = nnx.merge(graphdef, state)
    return greedy(model, rows, _row_prompts(bank, names_B), max_new_tokens)
