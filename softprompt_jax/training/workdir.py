"""A run's folder: whose run it is, the best so far, and the result."""

import dataclasses
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import filelock
import jax

from softprompt_jax.config import BaseConfig, RunConfig, flatten
from softprompt_jax.config_checks import parse_mixture
from softprompt_jax.errors import UserError
from softprompt_jax.files import recover_folder, write_text
from softprompt_jax.models import LanguageModel, save_model
from softprompt_jax.prompts.prompt_folders import save_prompts, single_prompt
from softprompt_jax.prompts.soft_prompt import AS_TRAINED
from softprompt_jax.prompts.unfolded_prompt import AnyTrainedPrompt
from softprompt_jax.training import processes
from softprompt_jax.training.setup import resolve_scan
from softprompt_jax.version import __version__

# Settings that a resumed run may change: how far it goes, what it tells and where it runs, not what
# a step computes.
MAY_DIFFER = {
    "workdir",
    "resume",
    "profile",
    "push_to_hub",
    "train.steps",
    "train.log_every",
    "train.checkpoint_minutes",
    "train.keep_steps",
    "train.remat",
    "parallel.devices",
    "parallel.layout",
    "parallel.data",
    "parallel.fsdp",
    "parallel.tensor",
    "parallel.coordinator",
    "parallel.processes",
    "parallel.process",
    "task.data_dir",
    "task.cache_dir",
}


@dataclasses.dataclass
class Progress:
    """What the loop knows beside the devices' state; in every checkpoint, and in the result.

    Attributes:
        best_value: the mean of the tasks' metrics at the best evaluation so far.
        best_step: step of that evaluation.
        best_metrics: all metrics of it, by split and name, and in the end those of the test split.
        evaluations_since_best: evaluations without a better one, for early stopping.
        stopped_early: patience has run out.
        seconds: spent on the run, over all its parts.
        timed_examples: examples of training steps that were timed: those that compiled nothing.
        timed_seconds: seconds of these.
        model_fingerprint: of the model that the run began with; None: it was not kept then.
        data_fingerprint: of the examples that it is trained on; None: likewise.
    """

    best_value: float | None = None
    best_step: int | None = None
    best_metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    evaluations_since_best: int = 0
    stopped_early: bool = False
    seconds: float = 0.0
    timed_examples: int = 0
    timed_seconds: float = 0.0
    model_fingerprint: str | None = None
    data_fingerprint: str | None = None

    @classmethod
    def restored(
        cls, saved: Any, model_fingerprint: str, data_fingerprint: str | None, folder: Path
    ) -> "Progress":
        """What a checkpoint holds of it.

        Args:
            saved: the checkpoint's fields.
            model_fingerprint: of the model that is to go on.
            data_fingerprint: of the examples that it is to go on with; None: nobody looks.
            folder: of the run.

        Raises:
            UserError: the checkpoint has other fields, or is of another model or other examples.
        """
        try:
            progress = cls(**saved)
        except TypeError:
            raise UserError(
                f"The checkpoint in {folder} is of another version of softprompt_jax; go on with "
                "that version, or choose another --workdir."
            ) from None
        for what, before, now in (
            ("model weights", progress.model_fingerprint, model_fingerprint),
            ("training examples", progress.data_fingerprint, data_fingerprint),
        ):
            if None not in (before, now) and before != now:
                raise UserError(
                    f"{folder} holds a run on other {what}; bring them back to continue it, or "
                    "choose another --workdir."
                )
        return progress

    def evaluated(self, step: int, value: float, metrics: Mapping[str, float]) -> bool:
        """Counts an evaluation; whether it is the best so far.

        A value that is not finite is worse than any other: nothing would ever be above a NaN.
        """
        value = value if math.isfinite(value) else -math.inf
        self.evaluations_since_best += 1
        if self.best_value is not None and value <= self.best_value:
            return False
        self.best_value, self.best_step, self.best_metrics = value, step, dict(metrics)
        self.evaluations_since_best = 0
        return True

    @property
    def examples_per_second(self) -> float | None:
        """Steady training speed; None before the first timed step."""
        return self.timed_examples / self.timed_seconds if self.timed_seconds else None


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run gives.

    Attributes:
        best_prompt: the prompt of the best evaluation; None for model tuning (the model is in
            `best/`), for prompts of several tasks (they are there: `prompt_folders`) and for a run
            that was interrupted before its first evaluation.
        metrics: of the best step, by split and name ("validation/accuracy", "test/accuracy").
        workdir: the run's folder.
        best_step: step of the best evaluation; None before the first.
        finished: False when the run was interrupted and waits to be resumed.
        seconds: spent on the run, over all its parts.
        examples_per_second: of training steps that compiled nothing; None without any.
    """

    best_prompt: AnyTrainedPrompt | None
    metrics: Mapping[str, float]
    workdir: Path
    best_step: int | None
    finished: bool
    seconds: float
    examples_per_second: float | None


class Workdir:
    """The folder of one run; of several processes, which all see it, the first one writes.

    No other run can have the folder until `close`, or the end of the `with` block.

    Args:
        config: the run; `config.json` is written unless the folder holds a run already. A run that
            never came to its first step is none: its settings may have been the mistake.

    Raises:
        UserError: the folder holds a run with other settings, or one that has gone beyond
            `train.steps`, or `resume` is "never" and it holds one at all, or another run is writing
            it, or this process does not see what the first one wrote.
    """

    def __init__(self, config: BaseConfig):
        self.path = Path(config.workdir)
        self._config = config
        self._lock = filelock.FileLock(self.path / ".lock", timeout=0)
        recover_folder(self.best)
        saved = self.path / "config.json"
        held = False
        if not processes.is_first() and not saved.exists():
            raise UserError(
                f"Process {jax.process_index()} does not see {saved}, which process 0 wrote; give "
                "a --workdir on a disk that all processes share."
            )
        if saved.exists():
            try:
                before = type(config).from_json(saved.read_text(encoding="utf-8"))
            except (UserError, UnicodeDecodeError) as error:
                reason = str(error).rstrip(".")
                raise UserError(
                    f"{saved} is not the config of a run ({reason}); choose another --workdir."
                ) from None
            held = self._holds_a_run()
            if held:
                if config.resume == "never":
                    raise UserError(
                        f"{self.path} already holds a run; choose another --workdir, or leave out "
                        "--resume never to continue it."
                    )
                _check_same(before, config, self.path)
                self._check_steps(before)
        elif self.path.is_dir() and any(
            path.name[0] != "." and path.name != "cache" for path in self.path.iterdir()
        ):
            raise UserError(f"{self.path} is not empty and holds no run; choose another --workdir.")
        if not processes.is_first():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take()
            if self.result() is None:
                # It would tell of another prompt than the one that is in `best` from now on.
                (self.path / "result.json").unlink(missing_ok=True)
                write_text(saved, config.to_json())
        except OSError as error:
            self.close()
            raise UserError(
                f"The run's folder {self.path} cannot be written ({error.strerror}); choose "
                "another --workdir."
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets another run have the folder."""
        self._lock.release()

    def _take(self) -> None:
        """Keeps other runs away, which would delete this one's unfinished checkpoints."""
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise UserError(
                f"{self.path} is being written by another run; wait for it, or choose another "
                "--workdir."
            ) from None
        except (OSError, NotImplementedError):
            pass  # some shared disks have no locks

    def _latest_step(self) -> int:
        """Step of the newest checkpoint; 0 without any."""
        names = (path.name for path in (self.path / "checkpoints").glob("*"))
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def _holds_a_run(self) -> bool:
        """Whether a run was told of or kept; its files are made before the first step."""
        told = self.path / "metrics.jsonl"
        return (told.exists() and told.stat().st_size > 0) or self._latest_step() > 0

    def _check_steps(self, before: BaseConfig) -> None:
        """Refuses to go on to a step that lies behind, where nothing was evaluated perhaps."""
        steps = self._config.train.steps
        if steps >= before.train.steps or self.result() is not None:
            return
        latest = self._latest_step()
        if latest >= steps:
            raise UserError(
                f"{self.path} holds a run that has taken {latest} steps, but --train.steps is "
                f"{steps}; give more than {latest}, or choose another --workdir."
            )

    @property
    def best(self) -> Path:
        """Folder of the best prompt, or with model tuning of the best model."""
        return self.path / "best"

    def kept(self, step: int) -> Path:
        """Folder of what `train.keep_steps` keeps of a step."""
        return self.path / "kept" / str(step)

    def result(self) -> TrainResult | None:
        """The result of a run that already took all the steps that are asked for."""
        path = self.path / "result.json"
        if not path.exists():
            return None
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["steps"] < self._config.train.steps and not told["stopped_early"]:
            return None
        return self._as_result(
            Progress(
                best_step=told["best_step"],
                best_metrics={
                    name: math.nan if value is None else value
                    for name, value in told["metrics"].items()
                },
                seconds=told["seconds"],
            ),
            finished=True,
            examples_per_second=told["examples_per_second"],
        )

    def save(
        self,
        folder: Path,
        prompted: Any,
        model: LanguageModel,
        task: str,
        labels: Sequence[Sequence[str]],
        *,
        step: int | None,
        metrics: Mapping[str, float],
    ) -> None:
        """Puts the prompt (or model) of `prompted` into a folder; then all may read it.

        Args:
            folder: `best`, or one of its own in `kept`.
            prompted: merged of what is trained and what is frozen.
            model: that the prompt belongs to, or was tuned.
            task: for the card.
            labels: what is said for them, likewise, of each task; a prompt for all has those that
                they share.
            step: that it comes from; None: of a run that diverged before its first evaluation.
            metrics: measured with it.
        """
        if processes.is_first():
            if prompted.prompt is None:
                save_model(folder, model, module=prompted.model)
            else:
                parameterization, names = "plain", ()
                asked = {}
                if isinstance(self._config, RunConfig):
                    parameterization = self._config.prompt.parameterization
                    names, _ = parse_mixture(self._config.task.mixture)
                    asked = {name: getattr(self._config.task, name) for name in AS_TRAINED}
                shared = labels[0] if len(set(map(tuple, labels))) == 1 else ()
                card = {
                    "model": model.name,
                    "model_fingerprint": model.fingerprint,
                    "task": task,
                    "labels": list(shared),
                    "metrics": _as_json(metrics),
                    "step": step,
                    "init": self._config.prompt.init if isinstance(self._config, RunConfig) else "",
                    "parameterization": parameterization,
                    "seed": self._config.seed,
                    "versions": versions(),
                    **asked,
                }
                save_prompts(folder, prompted, card, dict(zip(names, labels, strict=False)))
        processes.wait_for_all()

    def finish(self, progress: Progress, model: LanguageModel, steps: int) -> TrainResult:
        """Writes `result.json`."""
        told = {
            "best_step": progress.best_step,
            "metrics": _as_json(progress.best_metrics),
            "steps": steps,
            "stopped_early": progress.stopped_early,
            "seconds": round(progress.seconds, 3),
            "examples_per_second": progress.examples_per_second,
            "stored_bytes": sum(file.stat().st_size for file in self.best.rglob("*.safetensors")),
            "seed": self._config.seed,
            "model": model.name,
            "model_fingerprint": model.fingerprint,
            "versions": versions(),
        }
        if processes.is_first():
            write_text(self.path / "result.json", json.dumps(told, indent=2) + "\n")
        return self._as_result(progress, True, progress.examples_per_second)

    def interrupted(self, progress: Progress) -> TrainResult:
        """The result of a run that is to be continued."""
        return self._as_result(progress, False, progress.examples_per_second)

    def _as_result(
        self, progress: Progress, finished: bool, examples_per_second: float | None
    ) -> TrainResult:
        has_prompt = progress.best_step is not None and self._config.train.method == "prompt_tuning"
        return TrainResult(
            best_prompt=single_prompt(self.best) if has_prompt else None,
            metrics=progress.best_metrics,
            workdir=self.path,
            best_step=progress.best_step,
            finished=finished,
            seconds=progress.seconds,
            examples_per_second=examples_per_second,
        )


def versions() -> dict[str, str]:
    """Versions of the packages that decide a run's bits."""
    names = ("jax", "jaxlib", "flax", "optax", "transformers")
    others = {name: importlib.metadata.version(name) for name in names}
    return {"softprompt-jax": __version__} | others


def _as_json(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Null for what is not finite, as in metrics.jsonl: JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _check_same(saved: BaseConfig, config: BaseConfig, path: Path) -> None:
    old, new = flatten(saved), flatten(config)
    allowed = set(MAY_DIFFER)
    if config.optimizer.schedule in ("cosine", "linear"):
        allowed.discard("train.steps")  # the schedule's course depends on it
    # Stacked layers have other leaves, which are those of the checkpoint where they are trained.
    if config.train.method == "model_tuning" and resolve_scan(saved) != resolve_scan(config):
        allowed -= {"train.remat", "train.scan_layers"}
    for name, value in new.items():
        if name not in allowed and old[name] != value:
            raise UserError(
                f"{path} holds a run with --{name} {old[name]}, not {value}; choose another "
                "--workdir, or the same settings to continue it."
            )
