"""A soft prompt as a thing of its own: vectors, a card, and a folder to keep them in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, Float

from softprompt_jax.errors import UserError
from softprompt_jax.files import check_replaceable, recover_folder, replace_folder
from softprompt_jax.models.language_model import LanguageModel
from softprompt_jax.prompts import initializers

FORMAT = 1
TENSOR_FILE = "prompt.safetensors"
CARD_FILE = "prompt.json"

AS_TRAINED = ("target_prefix", "task_prefix")
"""Options of a task that stand on a prompt's card, since it has to be asked as it was trained."""


@dataclass(frozen=True)
class SoftPrompt:
    """Trained virtual tokens for one task on one frozen model.

    Attributes:
        vectors: float32 `[length, d_model]`, in the space of the model's input embeddings.
        card: JSON-like facts: model, fingerprint, task, labels, metrics and how it was made.

    References:
        Lester, Al-Rfou, Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning",
        section 2.
    """

    vectors: Float[Array, "length d_model"]
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of virtual tokens."""
        return self.vectors.shape[0]

    @staticmethod
    def create(
        model: LanguageModel,
        length: int = 20,
        init: str = "class_labels",
        *,
        labels: Sequence[str] = (),
        text: str | None = None,
        file: str | Path | None = None,
        vocab: str = "frequent",
        uniform_range: tuple[float, float] = (-0.5, 0.5),
        seed: int = 0,
    ) -> "SoftPrompt":
        """An untrained prompt.

        Args:
            model: the model it is for.
            length: number of virtual tokens.
            init: `random_uniform`, `sampled_vocab`, `class_labels`, `text` or `file`.
            labels: the task's labels, for `class_labels`.
            text: the text to embed, for `text`.
            file: as of `load_vectors`, for `file`.
            vocab: the pool of `sampled_vocab` and of what `class_labels` leaves free.
            uniform_range: low and high of `random_uniform`.
            seed: of every draw.

        Raises:
            UserError: an unknown initialiser, one that lacks what it needs, or no positions.

        References:
            Lester et al. 2021, section 3.2, "Prompt Initialization".
        """
        if length < 1:
            raise UserError(f"A prompt cannot have {length} positions; give a length of 1 or more.")
        key = jax.random.key(seed)
        if init == "random_uniform":
            vectors = initializers.random_uniform(model, length, key, uniform_range)
        elif init == "sampled_vocab":
            vectors = initializers.sampled_vocab(model, length, key, vocab)
        elif init == "class_labels":
            vectors = initializers.class_labels(model, length, key, vocab, labels)
        elif init == "text":
            vectors = initializers.text(model, length, text or "")
        elif init == "file":
            if file is None:
                raise UserError("The initialiser file needs a prompt folder or .npy file; give it.")
            vectors = load_vectors(file, length, model.config)
        else:
            raise UserError(
                f"There is no initialiser {init!r}; choose random_uniform, sampled_vocab, "
                "class_labels, text or file."
            )
        return SoftPrompt(
            vectors,
            {
                "model": model.name,
                "model_fingerprint": model.fingerprint,
                "init": init,
                "labels": list(labels),
                "seed": seed,
            },
        )

    def save(self, folder: str | Path) -> None:
        """Writes `prompt.safetensors` (tensor `vectors`) and `prompt.json` (the card).

        A prompt that the folder held before is replaced whole: no reader and no crash sees half of
        it.

        Raises:
            UserError: there is something else in the folder, which would be lost.
        """
        # The shape is the vectors' own, whatever an older prompt's card says.
        card = {**self.card, "length": self.length, "d_model": self.vectors.shape[1]}
        write_folder(Path(folder), {"vectors": self.vectors}, card)

    @staticmethod
    def load(folder: str | Path) -> "SoftPrompt":
        """Reads a folder that `save` wrote.

        Raises:
            UserError: the folder holds no prompt, a damaged one, or one that is more than vectors.
        """
        folder = Path(folder)
        tensors, card = read_folder(folder)
        if "vectors" not in tensors and isinstance(kind := card.get("kind"), str):
            raise UserError(
                f"The prompt in {folder} is a {kind[:40]!r} prompt, which is more than vectors; "
                "use it with predict, evaluate or Predictor, or train a plain prompt."
            )
        vectors = tensors.get("vectors", np.zeros(0))
        if vectors.ndim != 2:
            raise UserError(
                f"The prompt in {folder} is not a matrix of finite floats with a card; save it "
                "anew."
            )
        return SoftPrompt(jnp.asarray(vectors), card)

    @staticmethod
    def from_hub(repo_id: str, *, revision: str | None = None) -> "SoftPrompt":
        """Reads a prompt from the Hugging Face hub: ours, or a PEFT adapter that is a prompt.

        Args:
            repo_id: "owner/name".
            revision: branch, tag or commit; None: main.

        Raises:
            UserError: the repository is not found or reached, or holds no prompt that can be read.
        """
        from softprompt_jax.exchange.repository import from_hub  # a later room

        return from_hub(repo_id, revision=revision)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Puts the prompt on the Hugging Face hub, where PEFT and this package both load it.

        Args:
            repo_id: "owner/name"; made unless it is there.
            **options: those of `exchange.push_to_hub`, such as `license="apache-2.0"`.

        Returns:
            The repository's address.

        Raises:
            UserError: as `exchange.push_to_hub`.
        """
        from softprompt_jax.exchange.repository import push_to_hub  # a later room

        return push_to_hub(self, repo_id, **options)

    def check_fits(self, config: Any, model_name: str) -> None:
        """Refuses a model whose embeddings have another width.

        Raises:
            UserError: names both widths.
        """
        if self.vectors.shape[1] != config.d_model:
            raise UserError(
                f"The prompt is {self.vectors.shape[1]} wide, made for "
                f"{self.card.get('model', 'another model')}, but {model_name} is "
                f"{config.d_model} wide; use the model that it was trained for."
            )


def check_prompt_replaceable(folder: Path) -> None:
    """Refuses to replace a folder that holds anything but a prompt.

    Raises:
        UserError: there is something else in the folder, which would be lost.
    """
    check_replaceable(folder, "a prompt", [TENSOR_FILE], [TENSOR_FILE, CARD_FILE])


def write_folder(folder: Path, tensors: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """Writes a prompt's tensors, as float32, and its card; the folder is replaced whole.

    Raises:
        UserError: there is something else in the folder, which would be lost.
    """
    check_prompt_replaceable(folder)
    # safetensors writes the memory as it lies, and reads it row by row.
    kept = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
    with replace_folder(folder) as fresh:
        safetensors.numpy.save_file(kept, fresh / TENSOR_FILE)
        text = json.dumps({**card, "format": FORMAT}, indent=2) + "\n"
        (fresh / CARD_FILE).write_text(text)


def read_folder(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors, float32, and the card that `write_folder` wrote.

    Raises:
        UserError: the folder holds no prompt, a damaged one, or one of another format.
    """
    recover_folder(folder)
    tensors_file, card_file = folder / TENSOR_FILE, folder / CARD_FILE
    for path in (tensors_file, card_file):
        if path.is_file():
            continue
        # As where a run kept a prompt for each task, and in a run's own folder.
        inner = sorted(each.parent.name for each in folder.glob(f"[!.]*/{TENSOR_FILE}"))
        mend = f"; give one of the prompts in it: {', '.join(inner)}" if inner else ""
        raise UserError(f"There is no prompt in {folder}: {path.name} is missing{mend}.")
    try:
        card = json.loads(card_file.read_text(encoding="utf-8"))
        tensors = safetensors.numpy.load_file(tensors_file)
    except (
        *(OSError, ValueError, KeyError, RecursionError),
        safetensors.SafetensorError,
    ) as error:
        raise UserError(f"The prompt in {folder} is damaged ({error}); save it anew.") from None
    floats = ("float32", "float16", "bfloat16")
    sound = isinstance(card, dict) and all(
        tensor.size and tensor.dtype.name in floats for tensor in tensors.values()
    )
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    if not sound or not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise UserError(
            f"The prompt in {folder} is not a matrix of finite floats with a card; save it anew."
        )
    written = card.get("format", FORMAT)
    if written != FORMAT:
        raise UserError(
            f"The prompt in {folder} has format {written}, but this softprompt_jax reads format "
            f"{FORMAT}; upgrade it, or save the prompt by the version that it comes from."
        )
    return tensors, printable(card)


def printable(card: dict[str, Any]) -> dict[str, Any]:
    """A card without names that would write to a terminal what is no text: they name nothing."""
    hidden = [
        fact
        for fact in ("model", "task")
        if isinstance(card.get(fact), str) and not card[fact].isprintable()
    ]
    return {fact: value for fact, value in card.items() if fact not in hidden}


def load_vectors(path: str | Path, length: int, config: Any) -> Float[Array, "length d_model"]:
    """The vectors of a prompt in any form that `exchange.read_prompt` knows, to start one from.

    Args:
        path: a prompt folder, the folder of a PEFT adapter, a .npy file, or "owner/name" on the
            hub.
        length: number of virtual tokens wanted.
        config: of the model, for its width.

    Raises:
        UserError: there is no such file, it is damaged, or it has another shape.
    """
    from softprompt_jax.exchange.repository import read_prompt  # a later room

    vectors = np.asarray(read_prompt(path).vectors)
    if vectors.shape != (length, config.d_model):
        raise UserError(
            f"The prompt in {path} has shape {list(vectors.shape)}, but this run needs "
            f"[{length}, {config.d_model}]; set --prompt.length or choose a prompt of this model."
        )
    return jnp.asarray(vectors)
