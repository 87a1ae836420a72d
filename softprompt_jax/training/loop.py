"""One training run, from a config to the best prompt: read it from top to bottom."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from softprompt_jax.config import RunConfig, check
from softprompt_jax.data import BatchStream
from softprompt_jax.data.cache import TokenCache
from softprompt_jax.data.preparation import prepare_data
from softprompt_jax.data.report import describe_run
from softprompt_jax.data.splits import cache_folder
from softprompt_jax.models import LanguageModel, resolve_model
from softprompt_jax.prompts import PromptedModel
from softprompt_jax.tasks import rename_labels
from softprompt_jax.training import parallel, partition
from softprompt_jax.training.checkpointing import Checkpoints
from softprompt_jax.training.evaluation import Evaluator
from softprompt_jax.training.interrupt import Interrupt
from softprompt_jax.training.logging import RunLog
from softprompt_jax.training.setup import (
    check_freeze,
    check_prompt,
    prepare_step,
    resolve_dtype,
    tasks_from_options,
    transfer_tasks,
)
from softprompt_jax.training.workdir import Progress, TrainResult, Workdir


class DivergedError(RuntimeError):
    """The loss was not finite; the message says where the last good prompt is and what to try."""


def train(config: RunConfig) -> TrainResult:
    """Runs a config, or goes on with the run that its folder holds.

    Args:
        config: the run; `load_config` makes one from a recipe.

    Returns:
        The best prompt and its metrics. The run's folder holds `config.json`, `metrics.jsonl`,
        `tensorboard/`, `checkpoints/`, `best/` and, once finished, `result.json`.

    Raises:
        UserError: a mistake in the config, found before the model's weights are read.
        DivergedError: loss or gradient was not finite.

    References:
        Lester, Al-Rfou, Constant 2021, sections 2 and 3.
    """
    started = time.monotonic()

    # ---------------------------------------------------------------- what is asked for
    check(config)
    options = config.train
    devices = parallel.local_devices(
        config.parallel.devices, options.batch_size, options.accumulation
    )
    files = resolve_model(config.model.name)
    tasks, transfer = tasks_from_options(config.task), transfer_tasks(config)
    if options.method == "prompt_tuning":
        check_prompt(config, files.config, tasks)
    if options.freeze:
        check_freeze(config, files.config)
    workdir = Workdir(config)
    result = workdir.result()
    if result is not None:
        return result

    # ----------------------------------------------------------------------------- data
    tokenizer = files.load_tokenizer()
    cache = TokenCache(cache_folder(config.task, config.workdir))
    data = prepare_data(config, tasks, transfer, tokenizer, files.config, cache)

    # ----------------------------------------------------------------- model and state
    model = files.load(resolve_dtype(config))
    _ = model.fingerprint  # kept from now on: model tuning gives the memory of these weights away
    graphdef, is_trained, frozen, state, train_step = prepare_step(config, model, tasks, devices)
    evaluate = Evaluator(
        graphdef,
        files.config,
        tokenizer,
        shapes=data.evaluation_shapes,
        batch_size=options.evaluate_batch_size or options.batch_size,
        max_target_length=config.task.max_target_length,
        devices=devices,
    )

    # --------------------------------------------------------------- where it goes on
    checkpoints = Checkpoints(workdir.path / "checkpoints")
    progress, step = Progress(), 0
    if checkpoints.latest_step is not None:
        state, saved = checkpoints.restore(state)
        progress, step = Progress(**saved), int(state.step)
    seconds_before = progress.seconds
    stream = BatchStream(
        data.examples,
        data.shapes,
        options.batch_size,
        config.seed,
        position=step,
        mixing=data.mixing,
    )
    log = RunLog(workdir.path, step, options.steps)
    log.say(_overview(config, model, state.trainable, frozen, len(devices)))
    log.say(describe_run(config, tasks, transfer, data))
    if step:
        log.say(f"Resuming after step {step}.")

    def evaluate_split(trainable: Any, name: str) -> tuple[dict[str, float], float]:
        """The metrics of every task that has the split, by full name, and their mean."""
        named, values = {}, []
        for task, splits in zip(tasks, data.splits, strict=True):
            if name in splits:
                split = splits[name]
                if name == "validation":
                    split = split.first(options.evaluate_examples)
                metrics = evaluate(trainable, frozen, task, split)
                place = f"{name}/{task.name}" if len(tasks) > 1 else name
                named |= {f"{place}/{metric}": value for metric, value in metrics.items()}
                values.append(task.main_value(metrics))
        mean = sum(values) / len(values) if values else float("nan")
        if len(tasks) > 1:
            named[f"{name}/mean"] = mean
        return named, mean

    def evaluate_and_keep_best() -> None:
        named, value = evaluate_split(state.trainable, "validation")
        log.write(step, named)
        log.advance(step, validation=f"{value:.3f}")
        progress.evaluations_since_best += 1
        if progress.best_value is None or value > progress.best_value:
            progress.best_value, progress.best_step, progress.best_metrics = value, step, named
            progress.evaluations_since_best = 0
            keep_best()

    def keep_best() -> None:
        best = nnx.merge(graphdef, state.trainable, frozen)
        labels = {task.labels for task in tasks}
        shared = labels.pop() if len(labels) == 1 else ()
        workdir.save_best(best, model, config.task.name, shared, progress)

    def save_checkpoint() -> None:
        progress.seconds = seconds_before + time.monotonic() - started
        checkpoints.save(state, step, dataclasses.asdict(progress))

    def read(number: int, on_device: Mapping[str, jax.Array]) -> None:
        metrics = {name: float(value) for name, value in jax.device_get(on_device).items()}
        if not metrics.pop("finite"):
            if progress.best_step is None:
                keep_best()  # the step left the trainable part as it was before
            raise DivergedError(
                f"The loss, its gradient or the update was not finite at step {number}; what was "
                f"best before is in {workdir.best}. Try a lower --optimizer.learning_rate, "
                "--optimizer.max_gradient_norm 1 or --model.dtype float32, with a new --workdir."
            )
        speed = progress.examples_per_second
        shown = {} if speed is None else {"examples/s": f"{speed:.1f}"}
        log.advance(number, loss=f"{metrics['loss']:.3f}", **shown)
        if number % options.log_every == 0 or number == options.steps:
            written = {f"train/{name}": value for name, value in metrics.items()}
            log.write(number, written | _named_speed(speed))

    # ---------------------------------------------------------------------- the loop
    compiled: set[Any] = set()
    unread: tuple[int, Any] | None = None  # metrics of the step before, still being computed

    try:
        with Interrupt() as interrupt:
            if options.evaluate_first and step == 0:
                evaluate_and_keep_best()
            while step < options.steps and not progress.stopped_early:
                batch = next(stream)
                shape = (batch["inputs"].shape, batch["targets"].shape)
                compiles = shape not in compiled
                due = step + 1 == options.steps or (step + 1) % options.evaluate_every == 0

                clock = time.monotonic()
                if compiles and unread is not None:
                    read(*unread)
                    unread = None
                progress.timed_seconds += time.monotonic() - clock

                clock = time.monotonic()
                rows = parallel.shard_rows(batch, len(devices))
                state, on_device = train_step(state, frozen, rows)
                # The next step is on its way before the last one's metrics are waited for. More
                # than these two are never in flight: collectives of many can time out on CPU.
                if unread is not None:
                    read(*unread)
                step += 1
                unread = (step, on_device)
                if compiles or due or interrupt.signal is not None:
                    read(*unread)
                    unread = None
                if compiles:
                    compiled.add(shape)
                else:
                    progress.timed_examples += options.batch_size
                    progress.timed_seconds += time.monotonic() - clock

                if due:
                    evaluate_and_keep_best()
                    patience = options.patience
                    if patience is not None and progress.evaluations_since_best >= patience:
                        progress.stopped_early = True
                every = options.checkpoint_every
                if due if every is None else (step % every == 0 or step == options.steps):
                    if unread is not None:
                        read(*unread)
                        unread = None
                    save_checkpoint()
                if interrupt.signal is not None:
                    if unread is not None:
                        read(*unread)
                    save_checkpoint()
                    break

            # ----------------------------------------------------------------- the end
            if step < options.steps and not progress.stopped_early:
                log.say(f"Stopped at step {step}; the same command continues the run.")
                return workdir.interrupted(progress)
            if progress.stopped_early:
                log.say(f"Stopped early: nothing better since step {progress.best_step}.")
            tested = any("test" in splits for splits in data.splits)
            if tested or transfer:
                module, prompt = workdir.load_best()
                best = PromptedModel(
                    module or model.module, None if prompt is None else prompt.vectors
                )
                best_trainable = parallel.replicate(partition.split(best, is_trained)[1], devices)
                named = evaluate_split(best_trainable, "test")[0] if tested else {}
                for task, split in zip(transfer, data.transfer, strict=True):
                    renamed = rename_labels(config.task.name, task.name)
                    metrics = evaluate(best_trainable, frozen, task, split, renamed)
                    place = f"evaluate_on/{task.name}"
                    named |= {f"{place}/{metric}": value for metric, value in metrics.items()}
                progress.best_metrics |= named
                log.write(step, named)
            progress.seconds = seconds_before + time.monotonic() - started
            return workdir.finish(progress, model, step)
    finally:
        log.close()
        checkpoints.close()


def _named_speed(speed: float | None) -> dict[str, float]:
    return {} if speed is None else {"train/examples_per_second": speed}


def _overview(
    config: RunConfig,
    model: LanguageModel,
    trainable: Any,
    frozen: Any,
    devices: int,
) -> str:
    """What is about to run, in one line."""

    def size(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    return (
        f"{model.name} ({size(frozen):,} parameters frozen, {size(trainable):,} trained, "
        f"{resolve_dtype(config)}) on {devices} {jax.default_backend()} device(s)"
    )
