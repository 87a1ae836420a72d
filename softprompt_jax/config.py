"""What one run is: nested frozen dataclasses, read from `configs/*.py` and the command line."""

import contextlib
import dataclasses
import difflib
import importlib.util
import io
import json
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from softprompt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The frozen language model."""

    name: str = "smollm2-135m"
    """Hub id, local folder, .gguf file or the built-in name smollm2-135m."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the frozen weights and activations; auto: bfloat16 on TPU and GPU, float32 on CPU."""
    dropout_rate: float = 0.0
    """Dropout inside the frozen model while training, in [0, 1); the released code has 0.1."""


@dataclasses.dataclass(frozen=True)
class PromptOptions:
    """The soft prompt and how it starts."""

    length: int = 20
    """Number of virtual tokens."""
    init: Literal["random_uniform", "sampled_vocab", "class_labels", "text", "file"] = (
        "class_labels"
    )
    """Initialiser (paper section 3.2)."""
    uniform_range: tuple[float, float] = (-0.5, 0.5)
    """Range of random_uniform: the paper's; the released code draws from 0 to 0.5."""
    vocab: Literal["frequent", "first_5000", "all"] = "frequent"
    """Ids sampled_vocab draws from: the 5,000 most frequent without special tokens, ids 0 to 4999
    as in the released code, or the whole vocabulary without special tokens."""
    text: str | None = None
    """Text whose embeddings start the prompt with init=text, tiled or cut to the length."""
    file: str | None = None
    """Prompt folder (or .npy file) that starts the prompt with init=file."""


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """The task, built in by name, several of them mixed, or from files of your own."""

    name: str = "movie_reviews"
    """A built-in task, or any name together with train_file and validation_file, or a mixture."""
    train_file: str | None = None
    """JSONL, CSV, TSV, Parquet or text file of training rows."""
    validation_file: str | None = None
    """Rows that choose the best prompt."""
    test_file: str | None = None
    """Rows scored once, at the end; optional."""
    input_column: str = "input"
    """Column that holds the input text."""
    target_column: str = "target"
    """Column that holds the target text or label, or a list of accepted answers."""
    answer_separator: str | None = None
    """What stands between several accepted answers in the target column, such as "|"."""
    input_template: str | None = None
    """Input built from columns, as in "question: {q} context: {c}"; replaces input_column."""
    text_column: str | None = None
    """Column of plain text for language modelling: the second half of each text follows the first;
    replaces input_column and target_column. A .txt file has one text a line."""
    labels: tuple[str, ...] | None = None
    """The labels of a classification task; found in the training rows when not given."""
    metrics: tuple[str, ...] | None = None
    """Metrics of your own files, their mean chooses the best prompt; default: accuracy, or
    exact_match for free text."""
    evaluation: Literal["score", "generate", "likelihood"] | None = None
    """score: the likeliest label; generate: greedy text that must match; likelihood: of the target.
    Default: the task's."""
    mixture: tuple[str, ...] = ()
    """Built-in tasks to train on together, as in "super_glue/boolq super_glue/cb", each perhaps
    with a rate, "super_glue/boolq=2"; without rates, in proportion to their examples."""
    mixture_limit: int | None = None
    """A task of a mixture without rates counts as having this many examples at most."""
    train_examples: int | None = None
    """Train on the first so many examples of a task only; None: all."""
    data_dir: str | None = None
    """Folder of tensorflow-datasets; None: TFDS_DATA_DIR, or its own default."""
    cache_dir: str | None = None
    """Folder that keeps tokenised data for later runs; None: `cache` in the run's folder."""
    task_prefix: bool = False
    """Start each input with the task's name, as T5 does and the paper does not."""
    max_input_length: int = 512
    """Input tokens at most; longer inputs are cut where the task says."""
    max_target_length: int = 32
    """Target tokens at most, end of sequence included."""


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """The optimizer of the trainable part."""

    name: Literal["lester_adafactor", "adafactor", "adamw"] = "lester_adafactor"
    """lester_adafactor is the paper's (section 3): no parameter scaling, decay 0.8, clip 1.0."""
    learning_rate: float | None = None
    """Default: the paper's 0.3 for prompts and 0.001 for model tuning; adamw has no default."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Course of the learning rate after warm-up; cosine and linear end at 0 at the last step."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: float = 1e-5
    """Decay a step; not multiplied by the learning rate with lester_adafactor, as in T5X."""
    step_offset: int = 0
    """Step at which Adafactor's second-moment schedule starts; the released code has 1,100,000."""
    max_gradient_norm: float | None = None
    """Clip the gradient's global norm to this, if given."""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The training loop."""

    method: Literal["prompt_tuning", "model_tuning"] = "prompt_tuning"
    """Train the prompt on the frozen model, or the whole model without a prompt."""
    freeze: tuple[str, ...] = ()
    """Regular expressions of trainable parameter paths that stay frozen all the same."""
    steps: int = 100
    """Optimizer steps."""
    batch_size: int = 16
    """Examples a step, over all devices and accumulation steps."""
    accumulation: int = 1
    """Micro-batches a step whose gradients are summed one after the other, to save memory."""
    remat: Literal["auto", "none", "attention", "dots", "full"] = "auto"
    """What the backward pass computes anew instead of keeping it: nothing, attention weights, all
    but the products with weights (dots), or nearly all (full); auto: none on CPU, else
    attention."""
    scan_layers: bool | None = None
    """Compile one layer and loop over it; None: with remat dots or full, where that is what saves
    memory."""
    z_loss: float = 0.0
    """Weight of the squared log-partition function in the loss; the released code has 1e-4."""
    max_shapes: int = 6
    """Length buckets at most, each compiled once."""
    evaluate_every: int = 40
    """Steps between evaluations on the validation split; also after the last step."""
    evaluate_first: bool = False
    """Evaluate before the first step too, to see what training gains."""
    evaluate_examples: int | None = None
    """Validation examples an evaluation looks at, the first ones; None: all."""
    evaluate_batch_size: int | None = None
    """Examples a device batch in evaluation; None: as batch_size."""
    patience: int | None = None
    """Stop after this many evaluations without a better one; None: never."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; None: at evaluations."""
    checkpoint_minutes: float | None = 10.0
    """A checkpoint too when the last one is so many minutes old; None: by steps only."""
    log_every: int = 10
    """Steps between lines in metrics.jsonl."""


@dataclasses.dataclass(frozen=True)
class ParallelOptions:
    """How a step is spread over devices."""

    devices: int | None = None
    """Devices to use; None: all of them."""
    layout: Literal["auto", "pmap", "mesh"] = "auto"
    """pmap: whole weights on every device, the batch shared out; mesh: weights shared out too;
    auto: pmap, or mesh if weights are too large for a device or there are several processes."""
    data: int | None = None
    """Devices along a mesh's axis that shares out rows only; None: what the others leave."""
    fsdp: int | None = None
    """Devices along the axis that shares out rows and weights; None: what the others leave."""
    tensor: int | None = None
    """Devices along the axis that shares out heads and hidden units; None: 1."""
    coordinator: str | None = None
    """Where process 0 listens, as "host:port"; None: JAX_COORDINATOR_ADDRESS, or what TPU pods,
    SLURM, Kubernetes or Open MPI tell."""
    processes: int | None = None
    """Processes of the job; 1: this one alone, whatever the launcher tells; None:
    JAX_NUM_PROCESSES, or the launcher's."""
    process: int | None = None
    """Number of this process, from 0; None: JAX_PROCESS_ID, or the launcher's."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run computes."""

    model: ModelOptions = ModelOptions()
    prompt: PromptOptions = PromptOptions()
    task: TaskOptions = TaskOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    train: TrainOptions = TrainOptions()
    parallel: ParallelOptions = ParallelOptions()
    evaluate_on: tuple[str, ...] = ()
    """Built-in tasks that the best prompt is also scored on, once, at the end (transfer)."""
    workdir: str = "runs/default"
    """Folder of the run: config, metrics, checkpoints, the best prompt and the result."""
    profile: int | None = None
    """Steps to trace, once a step is compiled, into `profile` in the run's folder; None: none."""
    resume: Literal["auto", "never"] = "auto"
    """auto: continue the run that the folder holds; never: refuse a folder that holds one."""
    seed: int = 0
    """Seed of the prompt's start, of the order of the data and of dropout."""

    def to_json(self) -> str:
        """The config as indented JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> "RunConfig":
        """The config that `to_json` wrote.

        Raises:
            UserError: the text is not JSON, or has a field that no config has.
        """
        try:
            return _from_dict(RunConfig, json.loads(text), "")
        except json.JSONDecodeError as error:
            raise UserError(f"The config is not valid JSON: {error}.") from None


def _from_dict(cls: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"The config has {str(values)[:40]} where {prefix or 'it'} needs fields.")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(f"The config has the unknown field {prefix}{unknown[0]}.")
    fields = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _from_dict(typing.cast(type, hints[name]), value, f"{prefix}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        fields[name] = value
    return cls(**fields)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a config by dotted name, as on the command line."""
    leaves = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            leaves |= flatten(value, f"{prefix}{field.name}.")
        else:
            leaves[prefix + field.name] = value
    return leaves


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a recipe and applies command-line overrides to it.

    Args:
        path: a Python file that defines `config`, a `RunConfig`; None: the defaults. The file is
            executed, so it must be one you trust.
        overrides: as on the command line, `["--train.steps", "50"]`.

    Raises:
        UserError: the file is missing or has no config, or an override is unknown or malformed.
    """
    config = RunConfig() if path is None else _execute(Path(path))
    _check_types(config)
    config = _override(config, list(overrides))
    check(config)
    return config


def _execute(path: Path) -> RunConfig:
    if not path.is_file():
        raise UserError(f"There is no config file {path}; the recipes are in configs/.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"The config {path} is not a Python file; recipes end in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"The config {path} cannot be read ({type(error).__name__}: {error}); mend the file."
        ) from None
    config = getattr(module, "config", None)
    if not isinstance(config, RunConfig):
        raise UserError(f"The config {path} does not define `config = RunConfig(...)`; add it.")
    return config


def _override(config: RunConfig, overrides: list[str]) -> RunConfig:
    names = flatten(config)
    for argument in overrides:
        if not argument.startswith("--"):
            continue
        name = argument[2:].split("=")[0].replace("-", "_")
        switch = re.sub(r"(^|\.)no_(\w+)$", r"\1\2", name)
        known = name in names or isinstance(names.get(switch), bool)
        if not known and name not in ("help", "h"):
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean --{close[0]}?" if close else "see --help for the options."
            raise UserError(f"There is no option --{name}; {hint}")
    # tyro explains a mistake in a framed box of several lines; people get one sentence instead.
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(RunConfig, args=overrides, default=config, prog="softprompt_jax")
    except SystemExit as stop:
        if stop.code in (None, 0):  # --help
            raise
        text = re.sub(r"[╭╮╰╯│─]", " ", said.getvalue())
        text = re.sub(r"For full helptext.*", "", text, flags=re.DOTALL)
        text = re.sub(r"^\s*Parsing error\s*", "", re.sub(r"\s+", " ", text).strip())
        raise UserError(f"{text.rstrip('. ')}; see --help for the options.") from None


def check(config: RunConfig) -> None:
    """Refuses values that no run can have, before any work starts.

    Raises:
        UserError: names the option, its value and what it may be.
    """
    _check_types(config)
    for name, least in (
        ("prompt.length", 1),
        ("task.max_input_length", 1),
        ("task.max_target_length", 1),
        ("task.train_examples", 1),
        ("task.mixture_limit", 1),
        ("optimizer.warmup_steps", 0),
        ("optimizer.weight_decay", 0),
        ("optimizer.step_offset", 0),
        ("train.steps", 1),
        ("train.batch_size", 1),
        ("train.accumulation", 1),
        ("train.z_loss", 0),
        ("train.max_shapes", 1),
        ("train.evaluate_every", 1),
        ("train.evaluate_examples", 1),
        ("train.evaluate_batch_size", 1),
        ("train.patience", 1),
        ("train.checkpoint_every", 1),
        ("train.log_every", 1),
        ("parallel.devices", 1),
        ("parallel.data", 1),
        ("parallel.fsdp", 1),
        ("parallel.tensor", 1),
        ("parallel.processes", 1),
        ("parallel.process", 0),
        ("profile", 1),
        ("seed", 0),
    ):
        value = flatten(config)[name]
        if value is not None and not value >= least:
            raise UserError(f"--{name} is {value}; it must be at least {least}.")
    if config.seed >= 2**32:
        raise UserError(f"--seed is {config.seed}; it must be below 2**32.")
    for name in (
        *("optimizer.learning_rate", "optimizer.max_gradient_norm"),
        "train.checkpoint_minutes",
    ):
        value = flatten(config)[name]
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} is {value}; it must be a positive number.")
    if not 0 <= config.model.dropout_rate < 1:
        raise UserError(
            f"--model.dropout_rate is {config.model.dropout_rate}; it must be in [0, 1)."
        )
    if config.optimizer.name == "adamw" and config.optimizer.learning_rate is None:
        raise UserError("adamw has no default learning rate; give --optimizer.learning_rate.")
    if config.train.method == "model_tuning" and config.model.dtype == "bfloat16":
        raise UserError(
            "model_tuning trains float32 weights, since bfloat16 loses small updates; leave out "
            "--model.dtype bfloat16."
        )
    _check_mixture(config.task)
    low, high = config.prompt.uniform_range
    if not low < high:
        raise UserError(f"--prompt.uniform_range is {low} to {high}; the first must be smaller.")
    if config.train.method == "prompt_tuning":
        for init, value in (("text", config.prompt.text), ("file", config.prompt.file)):
            if config.prompt.init == init and not (value or "").strip():
                raise UserError(f"--prompt.init {init} needs --prompt.{init}; give it.")
    for pattern in config.train.freeze:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"--train.freeze has the bad regular expression {pattern!r} ({error}); mend it."
            ) from None


def parse_mixture(mixture: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """The tasks of a mixture, and their rates where they are given.

    Raises:
        UserError: a rate is no positive number, only some tasks have one, or one comes twice.
    """
    names, rates = [], []
    for part in mixture:
        name, equals, rate = part.partition("=")
        names.append(name)
        if not equals:
            continue
        try:
            rates.append(float(rate))
        except ValueError:
            rates.append(0.0)
        if not 0 < rates[-1] < float("inf"):
            raise UserError(f"--task.mixture has {part!r}; a rate is a positive number.")
    if len(set(names)) < len(names):
        raise UserError(f"--task.mixture names a task twice: {', '.join(names)}; name it once.")
    if rates and len(rates) < len(names):
        raise UserError(
            f"--task.mixture has rates for {len(rates)} of {len(names)} tasks; give all or none."
        )
    return tuple(names), tuple(rates) or None


def _check_mixture(options: TaskOptions) -> None:
    _, rates = parse_mixture(options.mixture)
    if options.mixture_limit is not None and (rates or not options.mixture):
        raise UserError(
            "--task.mixture_limit bounds the tasks of a --task.mixture without rates; leave it out."
        )
    if options.mixture and options.train_file is not None:
        raise UserError(
            "--task.mixture mixes built-in tasks; leave out --task.train_file, or register your "
            "own task in Python."
        )


def _check_types(config: Any, prefix: str = "") -> None:
    """Refuses values of other types: a recipe and Python code can hold anything."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _fits(value, hint):
            wanted = "fields" if dataclasses.is_dataclass(hint) else _describe(hint)
            raise UserError(f"--{prefix}{name} is {value!r}; it must be {wanted}.")
        if dataclasses.is_dataclass(value):
            _check_types(value, f"{prefix}{name}.")


def _fits(value: Any, hint: Any) -> bool:
    kind, of = typing.get_origin(hint), typing.get_args(hint)
    if kind is Literal:
        return value in of
    if kind in (types.UnionType, typing.Union):
        return any(_fits(value, each) for each in of)
    if kind is tuple:
        if not isinstance(value, tuple):
            return False
        each = of[:1] * len(value) if of[-1] is ... else of
        return len(value) == len(each) and all(map(_fits, value, each))
    if hint in (int, float):
        numbers = (int,) if hint is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    """A type as people write it: "text or None", "one of adamw, adafactor"."""
    kind, of = typing.get_origin(hint), typing.get_args(hint)
    if kind is Literal:
        return f"one of {', '.join(of)}"
    if kind in (types.UnionType, typing.Union):
        return " or ".join(map(_describe, of))
    if kind is tuple:
        return f"a tuple ({', '.join('...' if each is ... else _describe(each) for each in of)})"
    names = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
    return names.get(hint, "None")
