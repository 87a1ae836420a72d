"""What one run is: nested frozen dataclasses, as JSON both ways."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any, Literal, Self

from softprompt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The frozen language model."""

    name: str = "smollm2-135m"
    """Hub id, local folder, .gguf file or a built-in name: smollm2-135m, t5-nano, t5-micro,
    t5-mini."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the frozen weights and activations; auto: float32 on CPU and
    for model tuning, else bfloat16."""
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
    """What starts the prompt with init=file: a prompt folder, the folder of a PEFT adapter, a .npy
    file, or owner/name on the hub."""
    parameterization: Literal[
        "plain", "residual_mlp", "mlp", "lstm", "multitask", "dept", "prefix"
    ] = "plain"
    """What is trained: the vectors; or what gives them and is folded into them for the best prompt:
    vectors plus an MLP of them (residual prompt tuning), an MLP or LSTM (P-tuning), or one prompt
    for a task.mixture times a matrix of rank one a task (MPT). Or what is no plain prompt: vectors
    and offsets of low rank to the input's embeddings (DePT), or keys and values of every layer
    (prefix tuning, P-tuning v2)."""
    hidden_size: int | None = None
    """Hidden width of the MLP or LSTM; None: 800 for residual_mlp, else the model's width."""
    layer_norm: bool = True
    """Normalise what the residual MLP adds."""
    separate_networks: bool = False
    """A residual MLP for each position instead of one for all."""
    network_learning_rate: float | None = None
    """Learning rate of the MLP's or LSTM's weights, DePT's offsets or a prefix; None: 0.01 for a
    prefix, else 0.001. Vectors have the optimizer's own."""
    rank: int = 30
    """Rank of DePT's offsets, of which each of task.max_input_length positions has one."""
    teachers: tuple[str, ...] = ()
    """Prompt folders, one for each task of task.mixture in order, that a multitask prompt is
    distilled from."""
    distillation_weight: float = 0.9
    """Weight of the divergence from the teachers' answers, beside the loss."""
    wayward_text: str | None = None
    """Draw the prompt to this text's embeddings, tiled or cut to the length (waywardness)."""
    wayward_gamma: float = 0.01
    """Weight of the mean squared distance to wayward_text, beside the loss."""


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
    """The labels of a classification task, of two the positive one second; found in the training
    rows when not given."""
    metrics: tuple[str, ...] | None = None
    """Metrics of your own files, their mean chooses the best prompt; default: accuracy, or
    exact_match for free text. f1 and multirc_f1a need the labels."""
    evaluation: Literal["score", "generate", "likelihood"] | None = None
    """score: the likeliest label; generate: greedy text that must match; likelihood: of the target,
    for tasks of files or of plain text. Default: the task's."""
    mixture: tuple[str, ...] = ()
    """Built-in tasks to train on together, as in "super_glue/boolq super_glue/cb", each perhaps
    with a rate, "super_glue/boolq=2"; without rates, in proportion to their examples."""
    mixture_limit: int | None = None
    """A task of a mixture without rates counts as having this many examples at most."""
    train_examples: int | None = None
    """Train on the first so many examples of a task only; None: all."""
    data_dir: str | None = None
    """Folder of tensorflow-datasets, for the tasks that are from there; None: TFDS_DATA_DIR, or its
    own default."""
    cache_dir: str | None = None
    """Folder that keeps tokenised data for later runs; None: `cache` in the run's folder."""
    task_prefix: bool = False
    """Start each input with the task's name, as T5 does and the paper does not."""
    target_prefix: str = ""
    """Text that the model has to say before each target: "<extra_id_0> " for a T5 that was only
    ever span-corrupted, as in the paper's section 3.2 ("span corruption + sentinel")."""
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
    schedule: Literal["constant", "cosine", "linear", "inverse_sqrt"] = "constant"
    """Course of the learning rate after warm-up; cosine and linear fall so that it would be 0 one
    step after the last; inverse_sqrt falls with the square root of the step, from where warm-up
    ended."""
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
    loss: Literal["tokens", "labels"] = "tokens"
    """Cross-entropy of target tokens over the vocabulary, the paper's; or among the task's labels,
    each scored as a whole, as evaluation does: for a model too small to say them of itself."""
    z_loss: float = 0.0
    """Weight of the squared log-partition function in the loss; the released code has 1e-4."""
    max_shapes: int = 6
    """Length buckets at most, each compiled once; not for pre-training."""
    evaluate_every: int = 40
    """Steps between evaluations on the validation split; also after the last step."""
    evaluate_first: bool = False
    """Evaluate before the first step too, to see what training gains."""
    evaluate_examples: int | None = None
    """Validation examples an evaluation looks at, the first ones; None: all. Not for
    pre-training, which has corpus.validation_examples."""
    evaluate_batch_size: int | None = None
    """Examples a device batch in evaluation; None: as batch_size."""
    patience: int | None = None
    """Stop after this many evaluations without a better one; None: never."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; None: at evaluations."""
    checkpoint_minutes: float | None = 10.0
    """A checkpoint too when the last one is so many minutes old; None: by steps only."""
    keep_steps: tuple[int, ...] = ()
    """Steps after which the prompt (or the tuned model) is also written to `kept/<step>` in the
    run's folder; 0: as it starts."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """What every kind of run has: a model, the way it is trained, and a folder."""

    model: ModelOptions = ModelOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    train: TrainOptions = TrainOptions()
    parallel: ParallelOptions = ParallelOptions()
    workdir: str = "runs/default"
    """Folder of the run: config, metrics, checkpoints, the best prompt and the result."""
    profile: int | None = None
    """Steps to trace, from the first that compiles nothing, into `profile` in the run's folder;
    None: none."""
    resume: Literal["auto", "never"] = "auto"
    """auto: continue the run that the folder holds; never: refuse a folder that holds one."""
    seed: int = 0
    """Seed of the prompt's start, of the order of the data and of dropout."""

    def to_json(self) -> str:
        """The config as indented JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def replaced(self, changes: Mapping[str, Any]) -> Self:
        """The config with some options replaced, by dotted name as on the command line.

        Raises:
            UserError: there is no such option.
        """
        config = self
        for name, value in changes.items():
            group, _, option = name.rpartition(".")
            try:
                if group:
                    part = dataclasses.replace(getattr(config, group), **{option: value})
                    config = dataclasses.replace(config, **{group: part})
                else:
                    config = dataclasses.replace(config, **{option: value})
            except (AttributeError, TypeError):
                raise UserError(f"A config has no option {name}; correct its name.") from None
        return config

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The config that `to_json` wrote.

        Raises:
            UserError: the text is not JSON, or has a field that no config has.
        """
        try:
            return _from_dict(cls, json.loads(text), "")
        except json.JSONDecodeError as error:
            raise UserError(f"The config is not valid JSON: {error}.") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(BaseConfig):
    """Everything that decides what a run on a task computes."""

    prompt: PromptOptions = PromptOptions()
    task: TaskOptions = TaskOptions()
    evaluate_on: tuple[str, ...] = ()
    """Built-in tasks that the best prompt is also scored on, once, at the end (transfer)."""
    push_to_hub: str | None = None
    """Hub repository, as owner/name, that the best prompt is put into at the end, for PEFT too;
    `softprompt_jax.export` does it with a licence and the nearest words on the card."""


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
