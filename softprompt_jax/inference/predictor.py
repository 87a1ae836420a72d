"""One frozen model, many prompts: each row of a batch brings its own."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float

from softprompt_jax.config import ParallelOptions
from softprompt_jax.data.tokenization import decode_answers
from softprompt_jax.errors import UserError
from softprompt_jax.exchange import read_any_prompt
from softprompt_jax.inference import compiled
from softprompt_jax.inference.batching import batch_rows, pad_choices
from softprompt_jax.inference.compiled import row_spec
from softprompt_jax.inference.encoding import Texts, encode_choice_lists, encode_rows, listed
from softprompt_jax.inference.places import PromptPlaces, Served
from softprompt_jax.inference.prompt_bank import (
    check_prompt,
    check_together,
    told_of_other_weights,
)
from softprompt_jax.inference.search import check_search, stop_strings
from softprompt_jax.inference.serving_layout import serving_layout
from softprompt_jax.inference.streaming import generate_in_steps
from softprompt_jax.models import LanguageModel, resolve_model
from softprompt_jax.models.blocks import set_attention
from softprompt_jax.models.loading import check_dtype
from softprompt_jax.prompts.unfolded_prompt import AnyTrainedPrompt
from softprompt_jax.training.parallel import Device, Layout, PmapLayout

_UNDER_WAY = 8  # batches that are queued before an answer is waited for


class Predictor:
    """Answers texts with a frozen model and any number of prompts, mixed in one batch.

    A causal model's keys and values of a prompt are computed when it is added, and kept on the
    device: a row takes what its own prompt has there, and only its text runs through the model.

    Prompts may come and go, from other threads too, while texts are answered: a call answers all of
    its texts with the prompts that there were when it began.

    Args:
        model: the frozen model.
        prompts: prompts of any lengths, by name; `add` adds more. A DePT prompt, or a prefix of
            T5, must be the only one.
        batch_size: rows a batch; rounded up to a multiple of the devices.
        devices: local devices that share the rows of a batch, each with whole weights; None: all
            of them.
        layout: instead of `devices`: where weights and rows go. `MeshLayout` cuts the weights, for
            a model that is too large for a device.
        places: prompts that there is room for; None: a few more than are given. Grows when full.
        prompt_length: of the longest prompt there is room for; None: that of the longest given.
            Grows when a longer one is added.

    Raises:
        UserError: a prompt is made for a model of another shape, leaves no room for a text or must
            be the only one, there are fewer devices, or both devices and a layout are given.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Mapping[str, AnyTrainedPrompt] | None = None,
        *,
        batch_size: int = 16,
        devices: int | None = None,
        layout: Layout | None = None,
        places: int | None = None,
        prompt_length: int | None = None,
    ):
        _check_batch_size(batch_size)
        prompts = dict(prompts or {})
        for name, prompt in prompts.items():
            check_prompt(name, prompt, model.config, model.name)
        check_together(prompts)
        self.model = model
        self.batch_size = batch_size
        if layout is None:
            layout = PmapLayout(_devices(devices))
        elif devices is not None:
            raise UserError("A Predictor was given devices and a layout; leave one of them out.")
        self._shards = layout.shards
        everywhere = layout.replicated
        assert isinstance(everywhere, NamedSharding)
        assert isinstance(everywhere.mesh, Mesh)
        self._mesh = everywhere.mesh
        self._by_row = NamedSharding(self._mesh, row_spec(self._mesh))
        module = nnx.merge(*nnx.split(model.module))
        if layout.platform == "cpu" and layout.axis is not None:
            set_attention(module, "by_row")
        self._graphdef, state = nnx.split(module)
        # Layouts know the paths of a `PromptedModel`, which has the model as "model".
        self._state = layout.place_frozen({"model": state})["model"]
        longest = max((prompt.length for prompt in prompts.values()), default=1)
        self._places = PromptPlaces(
            model,
            self._graphdef,
            self._state,
            everywhere,
            max(places or 0, len(prompts) + 1),
            max(prompt_length or 0, longest),
        )
        self._places.add(prompts)

    @staticmethod
    def load(
        model: str,
        prompts: Mapping[str, str | Path],
        dtype: str = "float32",
        *,
        batch_size: int = 16,
        devices: int | None = None,
        parallel: ParallelOptions | None = None,
        **options: Any,
    ) -> "Predictor":
        """A predictor from names and folders.

        Args:
            model: as for `load_model`.
            prompts: by name: a prompt folder, a PEFT adapter, a .npy file, or "owner/name" on the
                hub.
            dtype: as for `load_model`.
            batch_size: rows a batch; rounded up to a multiple of the devices.
            devices: local devices to use; None: all of them.
            parallel: how weights and rows are spread over the devices, as for `train`; None: whole
                weights on each device, unless they are too large for one.
            **options: the other ones of `Predictor`.

        Warns:
            UserWarning: a prompt was trained on other weights, by its card.

        Raises:
            UserError: as `load_model`, `read_any_prompt`, `serving_layout` and `Predictor`.
        """
        _check_batch_size(batch_size)
        loaded = {name: read_any_prompt(source) for name, source in prompts.items()}
        check_dtype(dtype)
        files = resolve_model(model)
        for name, prompt in loaded.items():  # before the weights are read
            check_prompt(name, prompt, files.config, files.name)
        check_together(loaded)
        parallel = parallel or ParallelOptions()
        if devices is not None:
            parallel = dataclasses.replace(parallel, devices=devices)
        layout = serving_layout(parallel, files.config, dtype)
        loaded_model = files.load(dtype, layout.sharding)
        for told in told_of_other_weights(loaded, loaded_model):
            warnings.warn(told, stacklevel=2)
        return Predictor(loaded_model, loaded, batch_size=batch_size, layout=layout, **options)

    @property
    def prompts(self) -> Mapping[str, AnyTrainedPrompt]:
        """The prompts by name."""
        return self._places.now.prompts

    def add(self, name: str, prompt: AnyTrainedPrompt) -> None:
        """Adds a prompt, or replaces the one of that name.

        Nothing is compiled anew while there is a free place of its length.

        Raises:
            UserError: the prompt is made for a model of another shape, leaves no room for a text,
                or one must be alone. The predictor is as before then.
        """
        self._places.add({name: prompt})

    def remove(self, name: str) -> None:
        """Forgets a prompt; its place is free for another.

        Raises:
            UserError: there is no such prompt.
        """
        self._places.remove(name)

    def score(
        self,
        texts: Texts,
        choices: Sequence[str] | Sequence[Sequence[str]],
        prompts: str | Sequence[str] | None = None,
        *,
        per_token: bool = False,
        content_free: str | None = None,
    ) -> Any:
        """Log-likelihood of each choice as the answer to each text.

        The text runs through the model once, whatever the number of choices.

        Args:
            texts: inputs as the task words them, or their token ids as `encode_inputs` gives them.
            choices: possible answers, the same for all texts, or a list of them for each text.
            prompts: a prompt's name for each text, one name for all, or None where there is only
                one prompt.
            per_token: divide by a choice's number of tokens, so that long ones are not worse.
            content_free: subtract the log-likelihood of the same choice after this input, such as
                "N/A", so that choices which are likely whatever is asked are not better.

        Returns:
            float32 `[texts, choices]`, in nats, summed over a choice's tokens; for choices of each
            text's own a list of float32 `[choices]`. The tokens have no end of sequence unless one
            choice begins another.

        Raises:
            UserError: an unknown prompt, as many names as texts are missing, an empty text, or
                choices that cannot be told apart.

        References:
            Brown et al. 2020, "Language Models are Few-Shot Learners", section 2.4 (per token);
            Zhao et al. 2021, "Calibrate Before Use" (content-free input; the difference of
            log-likelihoods is their diagonal rescaling without renormalisation).
        """
        if isinstance(choices, str):
            raise UserError("The choices are a single string; give a list of strings.")
        served, texts = self._places.now, listed(texts)
        names = served.names_for(prompts, len(texts))
        choices = list(choices)
        shared = not choices or isinstance(choices[0], str)
        each: list[Any] = [choices] * len(texts) if shared else choices
        if not texts:
            return np.zeros((0, len(choices)), np.float32) if shared else []
        if len(each) != len(texts):
            raise UserError(f"There are {len(texts)} texts but {len(each)} lists of choices.")
        encoded = encode_choice_lists(each, self.model)
        scores = self._score(served, texts, encoded, names)
        if content_free is not None:
            scores -= self._content_free_scores(served, content_free, each, encoded, names)
        if per_token:
            lengths = np.zeros(scores.shape, np.float32)
            for row, ids in enumerate(encoded):
                lengths[row, : len(ids)] = [len(tokens) for tokens in ids]
            scores /= np.maximum(lengths, 1)
        if shared:
            return scores
        return [row[: len(ids)] for row, ids in zip(scores, encoded, strict=True)]

    def generate(
        self,
        texts: Texts,
        prompts: str | Sequence[str] | None = None,
        max_new_tokens: int = 32,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        beams: int = 1,
        length_penalty: float = 1.0,
        stop: Sequence[str] | None = None,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[str]:
        """Answers to texts: the likeliest token at every step unless another way is asked for.

        Args:
            texts: as for `score`.
            prompts: likewise.
            max_new_tokens: tokens of an answer at most.
            temperature: draw tokens, from logits divided by this; None with top_k or top_p: 1.
            top_k: draw from so many likeliest tokens.
            top_p: draw from the fewest likeliest tokens that have this probability together.
            seed: of what is drawn. The same seed and number give the same text, whatever else is
                in the batch.
            numbers: of the texts, at least 0 and below 2**31; None: their places in `texts`.
            beams: beam search along so many; 1: none.
            length_penalty: answers of a beam search compare by log-likelihood / length to the
                power of this.
            stop: an answer ends before the first of these strings.
            on_text: called with a text's place in `texts` and each new piece of its answer as it
                comes; the pieces of a text joined are its answer, but for outer white space.

        Returns:
            The answers' texts without special tokens and outer white space.

        Raises:
            UserError: as `score`, or options that exclude each other.
        """
        search, sampling = check_search(
            max_new_tokens, temperature, top_k, top_p, seed, beams, length_penalty, stop, on_text
        )
        stop = stop_strings(stop)
        served, texts = self._places.now, listed(texts)
        names = served.names_for(prompts, len(texts))
        if numbers is not None and len(numbers) != len(texts):
            raise UserError(f"There are {len(texts)} texts but {len(numbers)} numbers.")
        if numbers is not None and not all(0 <= number < 2**31 for number in numbers):
            raise UserError("A text has a number that is not at least 0 and below 2**31.")
        own = np.asarray(range(len(texts)) if numbers is None else numbers, np.int32)
        if not texts:  # transformers decodes an empty batch to one empty text
            return []
        answers = [""] * len(texts)
        lengths = [max_new_tokens] * len(texts)
        if stop or on_text:
            for rows, index in self._batches(served, texts, names, lengths, numbers=own):
                told = generate_in_steps(
                    self._graphdef,
                    search,
                    (self._state, served.bank),
                    rows,
                    sampling,
                    index,
                    self.model,
                    stop,
                    on_text,
                )
                for i, text in zip(index, told, strict=True):
                    if i >= 0:
                        answers[i] = text.strip()
            return answers
        result = np.zeros((len(texts), max_new_tokens), np.int32)
        queued = []
        shared = (self._state, served.bank)
        for rows, index in self._batches(served, texts, names, lengths, numbers=own):
            output = compiled.generate(self._graphdef, self._mesh, search, *shared, rows, sampling)
            _queue(queued, index, output)
        self._fetch(result, queued)
        decoded = decode_answers(result, self.model.tokenizer, self.model.config)
        return [answer.strip() for answer in decoded]

    def input_lengths(self, texts: Texts) -> list[int]:
        """Tokens of each text as the model reads it, without the prompt."""
        return [len(row) for row in encode_rows(texts, self.model)]

    def longest_input(self, prompt: str, answer_length: int) -> int | None:
        """Tokens that a text may have with this prompt and an answer; None: no limit."""
        limit = self.model.config.max_positions
        return None if limit is None else limit - self.prompts[prompt].length - answer_length

    # --------------------------------------------------------------------------- the rows

    def _batches(
        self,
        served: Served,
        texts: Texts,
        names: Sequence[str],
        answer_lengths: Sequence[int],
        **more: np.ndarray,
    ) -> Any:
        """Yields the rows of each batch, and their numbers in `texts`.

        Args:
            served: the prompts.
            texts: all inputs.
            names: of their prompts.
            answer_lengths: tokens that may follow each text.
            **more: arrays `[texts, ...]` that rows take their part of.
        """
        config = self.model.config
        rows = encode_rows(texts, self.model)
        longest = None
        if config.max_positions is not None:
            for row, name, answer in zip(rows, names, answer_lengths, strict=True):
                together = served.prompts[name].length + len(row) + answer
                if together > config.max_positions:
                    raise UserError(
                        f"Prompt {name}, a text and its answer have {together} tokens together, "
                        f"but {self.model.name} reads {config.max_positions} at most; shorten the "
                        "texts."
                    )
            # Columns of padding count too where all rows have one and the same prompt, as DePT's.
            longest = config.max_positions - served.shortest - min(answer_lengths)
        places = np.array([served.places[name] for name in names], np.int32)
        for ids, mask, index in batch_rows(rows, self.batch_size, self._shards, longest):
            batch = {
                "inputs": ids,
                "input_mask": mask,
                "places": places[index],
                **{name: values[index] for name, values in more.items()},
            }
            yield jax.device_put(batch, self._by_row), index

    def _score(
        self,
        served: Served,
        texts: Texts,
        encoded: Sequence[Sequence[Sequence[int]]],
        names: Sequence[str],
    ) -> Float[np.ndarray, "n_texts n_choices"]:
        """Scores as wide as the longest list of choices; what shorter ones lack means nothing."""
        limit = self.model.config.max_positions
        # A text has a token at least.
        longest = None if limit is None else limit - served.shortest - 1
        choices, mask = pad_choices(encoded, longest)
        result = np.zeros((len(texts), max(map(len, encoded))), np.float32)
        lengths = [max(map(len, row)) for row in encoded]
        shared = (self._state, served.bank)
        queued = []
        for rows, index in self._batches(
            served, texts, names, lengths, choices=choices, choice_mask=mask
        ):
            _queue(queued, index, compiled.score(self._graphdef, self._mesh, *shared, rows))
        self._fetch(result, queued)
        return result

    def _content_free_scores(
        self,
        served: Served,
        text: str,
        each: Sequence[Sequence[str]],
        encoded: Sequence[Sequence[Sequence[int]]],
        names: Sequence[str],
    ) -> Float[np.ndarray, "n_texts n_choices"]:
        """The scores after the content-free text, once for each prompt and list of choices."""
        keys = [(name, tuple(choices)) for name, choices in zip(names, each, strict=True)]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        different = list(first)
        scores = self._score(
            served,
            [text] * len(different),
            [encoded[first[key]] for key in different],
            [name for name, _ in different],
        )
        place = {key: i for i, key in enumerate(different)}
        return scores[[place[key] for key in keys]]

    @staticmethod
    def _fetch(result: np.ndarray, queued: Sequence[tuple[np.ndarray, jax.Array]]) -> None:
        """Fills `result` row by row; columns beyond it are padding."""
        for index, output in jax.device_get(queued):
            real = index >= 0
            result[index[real]] = output[real, : result.shape[1]]


def _queue(queued: list[tuple[np.ndarray, jax.Array]], index: np.ndarray, output: Any) -> None:
    """Adds a batch to those under way; CPU devices that share weights do not stand many."""
    queued.append((index, output))
    if len(queued) > _UNDER_WAY:
        jax.block_until_ready(queued[-_UNDER_WAY][1])


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1.")


def _devices(count: int | None) -> list[Device]:
    devices = jax.local_devices()
    if count is not None and not 1 <= count <= len(devices):
        raise UserError(
            f"A Predictor was asked for {count} devices, but this machine has {len(devices)}."
        )
    return devices[:count]
