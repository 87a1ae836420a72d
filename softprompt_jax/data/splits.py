"""From a task's split to its tokens, and what predictions on it are judged by."""

import contextlib
import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import softprompt_jax
from softprompt_jax.config import TaskOptions
from softprompt_jax.data.cache import TokenCache, cache_key, tokenizer_fingerprint
from softprompt_jax.data.tokenization import TokenizedExamples, tokenize_pairs
from softprompt_jax.errors import UserError
from softprompt_jax.tasks import Reference, Task


@dataclasses.dataclass(frozen=True)
class Split:
    """One split, ready to be batched.

    Attributes:
        examples: its tokens.
        references: what each row's prediction is judged by; empty for rows that are trained on.
        label_counts: rows of each label that the task has; empty for free text.
    """

    examples: TokenizedExamples
    references: list[Reference]
    label_counts: dict[str, int]

    def first(self, count: int | None) -> "Split":
        """The first rows; None: all. The label counts stay those of the whole split."""
        if count is None or count >= len(self.examples):
            return self
        return dataclasses.replace(
            self, examples=self.examples.first(count), references=self.references[:count]
        )


def read_split(
    options: TaskOptions,
    task: Task,
    name: str,
    tokenizer: Any,
    config: Any,
    cache: TokenCache | None = None,
) -> Split:
    """Tokenises a split of a task, or takes the tokens that an earlier run kept.

    Args:
        options: lengths, the task prefix, and how many examples to train on.
        task: whose split it is.
        name: of the split. "train" has the rows to train on, others those to evaluate on.
        tokenizer: of the model.
        config: of the model.
        cache: where tokens are kept; None: nowhere. Only tasks with a fingerprint are.

    Raises:
        UserError: the task has no such split, or a row of it cannot be tokenised.
    """
    key = None
    if cache is not None and task.fingerprint is not None and name in task.splits:
        key = cache_key(
            task=task.name,
            split=name,
            data=task.fingerprint(name),
            labels=task.labels,
            judged=[task.evaluation, task.questions is not None],
            target_prefix=options.target_prefix,
            truncate=task.truncate,
            suffix=task.input_suffix,
            tokenizer=tokenizer_fingerprint(tokenizer),
            model=[config.is_encoder_decoder, config.eos_ids],
            options=[
                options.task_prefix,
                options.max_input_length,
                options.max_target_length,
                options.train_examples if name == "train" else None,
            ],
            code=_code_fingerprint(),
        )
        kept = cache.load(key)
        if kept is not None:
            examples, extra = kept
            references = [
                Reference(tuple(answers), _hashable(group), holds)
                for answers, group, holds in extra["references"]
            ]
            return Split(examples, references, extra["label_counts"])

    rows = _Rows(task, options, name)
    with telling_where(task, name):
        examples = tokenize_pairs(
            rows.pairs(),
            tokenizer,
            config,
            options.max_input_length,
            options.max_target_length,
            task.truncate,
            keep_suffix=task.input_suffix,
            labels=[options.target_prefix + label for label in task.labels],
        )
    counts = {label: rows.counts[label] for label in task.labels}
    if key is not None and cache is not None:
        references = [[list(r.answers), r.group, r.holds] for r in rows.references]
        cache.save(key, examples, {"references": references, "label_counts": counts})
    return Split(examples, rows.references, counts)


@contextlib.contextmanager
def telling_where(task: Task, split: str) -> Iterator[None]:
    """A mistake within names the task and the split."""
    try:
        yield
    except UserError as error:
        raise UserError(f"Task {task.name}, {split}: {error}") from None


def cache_folder(options: TaskOptions, workdir: str) -> Path:
    """Where a run keeps its tokens."""
    return Path(options.cache_dir) if options.cache_dir is not None else Path(workdir) / "cache"


class _Rows:
    """The text pairs of a split in one pass, and what is remembered of them on the way."""

    def __init__(self, task: Task, options: TaskOptions, name: str):
        self._task = task
        self._options = options
        self._name = name
        self._examples = task.split(name)
        self.references: list[Reference] = []
        self.counts: Counter[str] = Counter()

    def pairs(self) -> Iterator[tuple[str, str]]:
        task, prefix = self._task, self._options.task_prefix
        known = set(task.labels)
        if self._name == "train":
            rows = (pair for example in self._examples for pair in task.text_pairs(example, prefix))
            for text, target in itertools.islice(rows, self._options.train_examples):
                if target in known:
                    self.counts[target] += 1
                yield text, self._options.target_prefix + target
            return
        for example in self._examples:
            for text, reference in task.evaluation_rows(example, prefix):
                self.references.append(reference)
                if reference.answers[0] in known:
                    self.counts[reference.answers[0]] += 1
                yield text, self._options.target_prefix + reference.answers[0]


def _code_fingerprint() -> str:
    """Changes with the code that makes text and tokens, so that no version reads another's."""
    folder = Path(softprompt_jax.__file__).parent
    files = sorted([*(folder / "tasks").glob("*.py"), *(folder / "data").glob("*.py")])
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
