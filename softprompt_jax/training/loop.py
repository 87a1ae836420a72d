"""One training run, from the first batch to the best prompt: read it from top to bottom."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from softprompt_jax.config import BaseConfig
from softprompt_jax.data import Shape
from softprompt_jax.data.batches import HostBatch
from softprompt_jax.models import LanguageModel, resolve_model
from softprompt_jax.prompts import PromptedModel
from softprompt_jax.prompts.prompt_folders import load_prompts
from softprompt_jax.training import partition, processes
from softprompt_jax.training.checkpointing import Checkpoints, released
from softprompt_jax.training.interrupt import Interrupt
from softprompt_jax.training.logging import RunLog
from softprompt_jax.training.parallel import Layout
from softprompt_jax.training.setup import Prepared, load_placed, resolve_dtype
from softprompt_jax.training.speed import Speed, Trace, memory_in_use
from softprompt_jax.training.workdir import Progress, TrainResult, Workdir


class DivergedError(RuntimeError):
    """The loss was not finite; the message says where the last good prompt is and what to try."""


class Stream(Protocol):
    """Endless batches; a stream made with another's position continues exactly there."""

    @property
    def position(self) -> int:
        """Number of batches given so far."""
        ...

    def tokens(self, position: int) -> tuple[int, int]:
        """Real tokens of the whole batch at a position, and tokens with padding."""
        ...

    def __next__(self) -> HostBatch: ...


class Subject(Protocol):
    """What a run learns from and is judged by."""

    @property
    def name(self) -> str:
        """As the best prompt's card has it."""
        ...

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """Each task's labels to choose from, for the card; empty for free text."""
        ...

    @property
    def has_test(self) -> bool:
        """Whether `test` is to be called at the end."""
        ...

    def describe(self) -> str:
        """The data, for people."""
        ...

    def stream(self, position: int, own: np.ndarray) -> Stream:
        """Training batches from a position on; `own` are this process's rows of each."""
        ...

    def step_flops(self, shape: Shape) -> int:
        """The least FLOPs of a step on a batch of a shape."""
        ...

    def validate(self, trainable: Any, frozen: Any) -> tuple[dict[str, float], float]:
        """Metrics by full name, and the value that chooses the best: the higher the better."""
        ...

    def test(self, trainable: Any, frozen: Any) -> dict[str, float]:
        """Metrics of the best prompt or model, by full name."""
        ...


def run(
    config: BaseConfig,
    workdir: Workdir,
    layout: Layout,
    model: LanguageModel,
    prepared: Prepared,
    subject: Subject,
    *,
    started: float,
    data_fingerprint: str | None = None,
) -> TrainResult:
    """Trains to the end, or until it is told to stop.

    Args:
        config: the run.
        workdir: its folder, where it goes on if it was begun.
        layout: of the devices.
        model: that is trained, or that the prompt is trained for.
        prepared: its step, and what that works on.
        subject: what it learns from.
        started: when the run, or this part of it, began, by `time.monotonic`.
        data_fingerprint: changes with the examples that it learns from; None: nobody looks.

    Raises:
        UserError: its checkpoint is damaged, of another version, or of other weights or examples.
        DivergedError: loss or gradient was not finite.
        LostProcessError: another process of the job ended.
    """
    options = config.train
    _, is_trained, frozen, state, train_step = prepared
    fold = prepared.folding(layout)

    # --------------------------------------------------------------- where it goes on
    checkpoints = Checkpoints(workdir.path / "checkpoints")
    progress, step = Progress(), 0
    if checkpoints.latest_step is not None:
        state, saved = checkpoints.restore(released(state))
        progress = Progress.restored(saved, model.fingerprint, data_fingerprint, workdir.path)
        step = int(state.step)
    progress.model_fingerprint = model.fingerprint
    progress.data_fingerprint = data_fingerprint
    seconds_before = progress.seconds
    stream = subject.stream(step, layout.own_rows(options.batch_size))
    speed = Speed(progress, subject.step_flops, layout.devices)
    first = processes.is_first()
    trace = Trace(workdir.path / "profile", config.profile if first else None)
    log = RunLog(workdir.path, step, options.steps, writes=first)
    log.say(_overview(config, model, state.trainable, frozen, layout))
    log.say(subject.describe())
    if step:
        log.say(f"Resuming after step {step}.")
        missed = [n for n in options.keep_steps if n <= step and not workdir.kept(n).is_dir()]
        if missed:
            log.say(f"Too late to keep what it was after step {', '.join(map(str, missed))}.")

    evaluated: dict[int, Mapping[str, float]] = {}

    def evaluate_and_keep_best() -> None:
        named, value = subject.validate(fold(state.trainable), frozen)
        evaluated[step] = named
        log.write(step, named)
        log.advance(step, validation=f"{value:.3f}")
        if progress.evaluated(step, value, named):
            keep(workdir.best, step, named)

    def keep(folder: Path, number: int | None, metrics: Mapping[str, float]) -> None:
        """Writes the prompt, or the tuned model, as it is now."""
        tuned = options.method == "model_tuning"
        trained, others = processes.whole((fold(state.trainable), frozen if tuned else None))
        prompted = nnx.merge(fold.graphdef, trained, others if tuned else frozen)
        workdir.save(
            folder, prompted, model, subject.name, subject.labels, step=number, metrics=metrics
        )

    def keep_if_asked() -> None:
        if step in options.keep_steps:
            keep(workdir.kept(step), step, evaluated.get(step, {}))

    def save_checkpoint() -> None:
        progress.seconds = seconds_before + time.monotonic() - started
        checkpoints.save(state, step, dataclasses.asdict(progress))

    def read(number: int, on_device: Mapping[str, jax.Array], timed: Any) -> None:
        """Waits for the metrics of a step and logs them, or stops where they are not finite.

        Args:
            number: of the step.
            on_device: its metrics.
            timed: what `Speed.add` counts of it; None if it compiled.

        Raises:
            DivergedError: loss, gradient or update was not finite.
        """
        metrics = {name: float(value) for name, value in jax.device_get(on_device).items()}
        if not metrics.pop("finite"):
            if progress.best_step is None:
                keep(workdir.best, None, {})  # such a step changes nothing; one in flight may have
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
            if step == 0:
                keep_if_asked()
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
                # Right after a save wishes may arrive that were made before it.
                save |= stop or (old and step > saved_step + 2)
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
                keep_if_asked()
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
            if subject.has_test:
                if options.method == "model_tuning":
                    tuned = load_placed(config, resolve_model(str(workdir.best)), layout)
                    best = PromptedModel(tuned.module, None)
                else:
                    best = PromptedModel(model.module, load_prompts(workdir.best))
                best_trainable = layout.place_frozen(partition.split(best, is_trained)[1])
                named = subject.test(best_trainable, frozen)
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
    config: BaseConfig,
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
