"""One training run, from a config to the best prompt: read it from top to bottom."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from softprompt_jax.config import RunConfig, check
from softprompt_jax.data import BatchStream, Shape
from softprompt_jax.data.cache import TokenCache
from softprompt_jax.data.preparation import prepare_data
from softprompt_jax.data.report import describe_run
from softprompt_jax.data.splits import cache_folder
from softprompt_jax.models import LanguageModel, resolve_model
from softprompt_jax.prompts import PromptedModel, SoftPrompt
from softprompt_jax.tasks import rename_labels
from softprompt_jax.training import partition, processes
from softprompt_jax.training.checkpointing import Checkpoints
from softprompt_jax.training.evaluation import Evaluator
from softprompt_jax.training.flops import step_flops
from softprompt_jax.training.interrupt import Interrupt
from softprompt_jax.training.logging import RunLog
from softprompt_jax.training.parallel import Layout
from softprompt_jax.training.setup import (
    check_freeze,
    check_prompt,
    load_placed,
    prepare_step,
    resolve_dtype,
    run_layout,
    tasks_from_options,
    transfer_tasks,
)
from softprompt_jax.training.speed import Speed, Trace, memory_in_use
from softprompt_jax.training.workdir import Progress, TrainResult, Workdir


class DivergedError(RuntimeError):
    """The loss was not finite; the message says where the last good prompt is and what to try."""


def train(config: RunConfig) -> TrainResult:
    """Runs a config, or goes on with the run that its folder holds.

    Every process of a job calls it with the same config; the first one writes the folder, which all
    of them see.

    Args:
        config: the run; `load_config` makes one from a recipe.

    Returns:
        The best prompt and its metrics. The run's folder holds `config.json`, `metrics.jsonl`,
        `tensorboard/`, `checkpoints/`, `best/` and, once finished, `result.json`.

    Raises:
        UserError: a mistake in the config, found before the model's weights are read.
        DivergedError: loss or gradient was not finite.
        LostProcessError: another process of the job ended.

    References:
        Lester, Al-Rfou, Constant 2021, sections 2 and 3.
    """
    check(config)
    processes.join(config.parallel)
    with processes.telling_of_deaths():
        return _train(config)


def _train(config: RunConfig) -> TrainResult:
    started = time.monotonic()

    # ---------------------------------------------------------------- what is asked for
    options = config.train
    files = resolve_model(config.model.name)
    layout = run_layout(config, files.config)
    tasks, transfer = tasks_from_options(config.task), transfer_tasks(config)
    if options.method == "prompt_tuning":
        check_prompt(config, files.config, tasks)
    if options.freeze:
        check_freeze(config, files.config)
    with processes.first_one_first():
        workdir = Workdir(config)
    result = workdir.result()
    if result is not None:
        return result

    # ----------------------------------------------------------------------------- data
    tokenizer = files.load_tokenizer()
    cache = TokenCache(cache_folder(config.task, config.workdir))
    with processes.first_one_first():  # the others find its tokens in the cache
        data = prepare_data(config, tasks, transfer, tokenizer, files.config, cache)

    # ----------------------------------------------------------------- model and state
    model = load_placed(config, files, layout)
    _ = model.fingerprint  # kept from now on: model tuning gives the memory of these weights away
    graphdef, is_trained, frozen, state, train_step = prepare_step(config, model, tasks, layout)
    evaluate = Evaluator(
        graphdef,
        files.config,
        tokenizer,
        shapes=data.evaluation_shapes,
        batch_size=options.evaluate_batch_size or options.batch_size,
        max_target_length=config.task.max_target_length,
        layout=layout,
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
        own=layout.own_rows(options.batch_size),
    )

    def flops_of(shape: Shape) -> int:
        length = config.prompt.length
        return step_flops(files.config, shape, options.batch_size, length, options.method)

    speed = Speed(progress, flops_of, layout.devices)
    first = processes.is_first()
    trace = Trace(workdir.path / "profile", config.profile if first else None)
    log = RunLog(workdir.path, step, options.steps, writes=first)
    log.say(_overview(config, model, state.trainable, frozen, layout))
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
        tuned = options.method == "model_tuning"
        trained, others = processes.whole((state.trainable, frozen if tuned else None))
        best = nnx.merge(graphdef, trained, others if tuned else frozen)
        labels = {task.labels for task in tasks}
        shared = labels.pop() if len(labels) == 1 else ()
        workdir.save_best(best, model, config.task.name, shared, progress)

    def save_checkpoint() -> None:
        progress.seconds = seconds_before + time.monotonic() - started
        checkpoints.save(state, step, dataclasses.asdict(progress))

    def read(number: int, on_device: Mapping[str, jax.Array], timed: Any) -> None:
        """Waits for the metrics of a step; `timed` is what to count of it, None if it compiled."""
        metrics = {name: float(value) for name, value in jax.device_get(on_device).items()}
        if not metrics.pop("finite"):
            if progress.best_step is None:
                keep_best()  # the step left the trainable part as it was before
            raise DivergedError(
                f"The loss, its gradient or the update was not finite at step {number}; what was "
                f"best before is in {workdir.best}. Try a lower --optimizer.learning_rate, "
                "--optimizer.max_gradient_norm 1 or --model.dtype float32, with a new --workdir."
            )
        if timed is not None:
            speed.add(*timed)
        shown = {"loss": f"{metrics['loss']:.3f}"}
        if number % options.log_every == 0 or number == options.steps:
            rates, memory = speed.line(), memory_in_use()
            written = {f"train/{name}": value for name, value in (metrics | rates).items()}
            log.write(number, written | memory)
            shown |= _shown(rates, memory)
        log.advance(number, **shown)

    # ---------------------------------------------------------------------- the loop
    compiled: set[Any] = set()
    unread: tuple[int, Any, Any] | None = None  # metrics of the step before, still being computed
    agree = processes.Agreement()
    saved_step, saved_at = step, time.monotonic()

    def is_old() -> bool:
        """Whether it is time for a checkpoint by this process's clock."""
        minutes = options.checkpoint_minutes
        return minutes is not None and time.monotonic() - saved_at >= 60 * minutes

    try:
        with processes.telling_of_deaths(), Interrupt() as interrupt:
            if options.evaluate_first and step == 0:
                evaluate_and_keep_best()
            while step < options.steps and not progress.stopped_early:
                tokens = stream.tokens(stream.position)
                batch = next(stream)
                shape = Shape(batch["inputs"].shape[1], batch["targets"].shape[1])
                compiles = shape not in compiled
                if not compiles:
                    trace.start()
                due = step + 1 == options.steps or (step + 1) % options.evaluate_every == 0

                if compiles and unread is not None:
                    read(*unread)
                    unread = None
                if unread is None:
                    speed.start()
                rows = layout.place_rows(batch, options.batch_size)
                state, on_device = train_step(state, frozen, rows)
                # The next step is on its way before the last one's metrics are waited for. More
                # than these two are never in flight: collectives of many can time out on CPU.
                if unread is not None:
                    read(*unread)
                step += 1
                timed = None if compiles else (shape, options.batch_size, tokens)
                unread = (step, on_device, timed)
                stop, old = agree(interrupt.signal is not None, is_old())
                every = options.checkpoint_every
                save = due if every is None else (step % every == 0 or step == options.steps)
                # Right after a save a wish may arrive that was sent before it.
                save |= stop or (old and step > saved_step + 1)
                traced = trace.count()
                if compiles or due or save or traced:
                    read(*unread)
                    unread = None
                if traced:
                    trace.stop()
                compiled.add(shape)

                if due:
                    evaluate_and_keep_best()
                    patience = options.patience
                    if patience is not None and progress.evaluations_since_best >= patience:
                        progress.stopped_early = True
                if save:
                    save_checkpoint()
                    saved_step, saved_at = step, time.monotonic()
                if stop:
                    break

            # ----------------------------------------------------------------- the end
            if step < options.steps and not progress.stopped_early:
                log.say(f"Stopped at step {step}; the same command continues the run.")
                return workdir.interrupted(progress)
            if progress.stopped_early:
                log.say(f"Stopped early: nothing better since step {progress.best_step}.")
            tested = any("test" in splits for splits in data.splits)
            if tested or transfer:
                if options.method == "model_tuning":
                    tuned = load_placed(config, resolve_model(str(workdir.best)), layout)
                    best = PromptedModel(tuned.module, None)
                else:
                    best = PromptedModel(model.module, SoftPrompt.load(workdir.best).vectors)
                best_trainable = layout.place_frozen(partition.split(best, is_trained)[1])
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
    except processes.LostProcessError:
        checkpoints.abandon()
        raise
    finally:
        trace.stop()
        log.close()
        checkpoints.close()


def _shown(rates: Mapping[str, float], memory: Mapping[str, float]) -> dict[str, str]:
    """Rates and memory as the bar has them."""
    shown = {}
    for name, as_shown in (("examples", "examples/s"), ("tokens", "tokens/s")):
        if f"{name}_per_second" in rates:
            shown[as_shown] = f"{rates[f'{name}_per_second']:.1f}"
    if "flop_utilization" in rates:
        shown["MFU"] = f"{rates['flop_utilization']:.0%}"
    for value in list(memory.values())[:1]:
        shown["memory"] = f"{value / 1e9:.2f} GB"
    return shown


def _overview(
    config: RunConfig,
    model: LanguageModel,
    trainable: Any,
    frozen: Any,
    layout: Layout,
) -> str:
    """What is about to run, in one line."""

    def size(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    return (
        f"{model.name} ({size(frozen):,} parameters frozen, {size(trainable):,} trained, "
        f"{resolve_dtype(config, layout.platform)}) on {layout}"
    )
