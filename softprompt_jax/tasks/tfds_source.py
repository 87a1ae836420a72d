"""Tasks whose examples come from tensorflow-datasets (TFDS).

TensorFlow is imported when a split is first read, so that registering and checking stay quick and
the package works without it.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.metrics import Reference
from softprompt_jax.tasks.task import Evaluation, Example, Task, plain, register_task

# TFDS reads its own package files through importlib_resources, but does not require it.
MODULES = ("tensorflow_datasets", "tensorflow", "importlib_resources")
RETRIES = 4  # of a download; about 3 seconds in all where there is no network
URLLIB3_LOG = logging.getLogger("urllib3")


def register_tfds_task(
    name: str,
    *,
    pairs: Callable[[Example], list[tuple[str, str]]],
    splits: Mapping[str, str] = MappingProxyType({"train": "train", "validation": "validation"}),
    builder: str | None = None,
    questions: Callable[[Example], list[tuple[str, Reference]]] | None = None,
    labels: tuple[str, ...] = (),
    init_words: tuple[str, ...] = (),
    metrics: tuple[str, ...] = ("accuracy",),
    evaluation: Evaluation = "generate",
    truncate: Literal["end", "start"] = "end",
    input_suffix: str = "",
    prefix: str | None = None,
) -> None:
    """Registers a task on a data set of TFDS, with the option `data_dir`.

    `data_dir` is the folder that TFDS prepares the data in, or finds it prepared in; None: TFDS's
    own default, the environment's TFDS_DATA_DIR or ~/tensorflow_datasets.

    Args:
        name: the task's name.
        pairs: as in `Task`, of an example as plain Python: text, numbers, lists and dicts.
        splits: from the task's split to TFDS's, or a slice of one such as "train[:95%]".
        builder: the data set as TFDS names it, with config and version where they matter
            ("super_glue/boolq:1.0.2"); None: the task's name.
        questions: as in `Task`, as are all arguments below.
        labels: likewise.
        init_words: likewise.
        metrics: likewise.
        evaluation: likewise.
        truncate: likewise.
        input_suffix: likewise.
        prefix: likewise.
    """

    def factory(data_dir: str | None = None) -> Task:
        source = TfdsSource(builder or name, data_dir)
        return Task(
            name=name,
            load=lambda split: source.split(splits[split]),
            pairs=pairs,
            questions=questions,
            labels=labels,
            init_words=init_words,
            metrics=metrics,
            evaluation=evaluation,
            truncate=truncate,
            input_suffix=input_suffix,
            splits=tuple(splits),
            prefix=prefix,
            fingerprint=lambda split: source.fingerprint(splits[split]),
            check=source.check,
        )

    register_task(name, factory)


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """A data set of TFDS, prepared on first use and once for all its splits.

    Attributes:
        name: the data set as TFDS names it, with config and version if any.
        data_dir: folder of the prepared data; None: TFDS's default.
    """

    name: str
    data_dir: str | None = None

    def check(self) -> None:
        """Raises a UserError where TFDS or what it needs is not installed; imports nothing."""
        missing = [module for module in MODULES if importlib.util.find_spec(module) is None]
        if missing:
            raise UserError(
                f"The data set {self.name} is read by tensorflow-datasets, and "
                f"{' and '.join(missing)} is not installed; run "
                "pip install 'softprompt-jax[tfds]'."
            )

    def split(self, split: str) -> "TfdsSplit":
        """The examples of one of TFDS's splits, or of a slice such as "train[:95%]".

        Raises:
            UserError: TFDS is not installed, the data set cannot be prepared, or has no such split.
        """
        builder = self._prepared
        try:
            info = builder.info.splits[split]
        except (KeyError, ValueError, AssertionError):
            known = ", ".join(builder.info.splits)
            raise UserError(
                f"The data set {self.name} has no split {split!r}; it has {known}."
            ) from None
        return TfdsSplit(builder, split, info.num_examples)

    def fingerprint(self, split: str) -> str:
        """A text that changes with the data set's version or the prepared files of the split.

        Raises:
            UserError: as for `split`.
        """
        examples = self.split(split)
        import tensorflow as tf

        builder = examples.builder
        parts = [f"{builder.info.full_name} {split} {len(examples)}"]
        # TFDS keeps no checksum of what it prepared: a file's place, size and time stand for it.
        with _readable(builder):
            for part in builder.info.splits[split].file_instructions:
                state = tf.io.gfile.stat(part.filename)  # the folder may be a bucket
                parts.append(f"{part.filename} {state.length} {state.mtime_nsec}")
        return "\n".join(parts)

    @functools.cached_property
    def _prepared(self) -> Any:
        self.check()
        tfds = _import_tfds()
        try:
            builder = tfds.builder(self.name, data_dir=self.data_dir)
        # TFDS tells an unknown name, config or version by several unrelated exceptions.
        except Exception as error:
            raise UserError(
                f"tensorflow-datasets {tfds.__version__} cannot load the data set {self.name} "
                f"({_told(error)}); correct its name or version, or give a data_dir where it is "
                "prepared."
            ) from error
        try:
            with _brisk_download():
                builder.download_and_prepare()
        # The causes are as many as servers, proxies, disks and archives have: all have one mend.
        except Exception as error:
            raise UserError(
                f"The data set {self.name} cannot be downloaded and prepared ({_told(error)}); run "
                "it once where there is a network, or give a data_dir where it is prepared."
            ) from error
        return builder


@dataclasses.dataclass(frozen=True)
class TfdsSplit:
    """The examples of a split, read from disk each time they are gone through, in one fixed order.

    Attributes:
        builder: the prepared `tfds.core.DatasetBuilder`.
        split: the split or slice as TFDS writes it.
        num_examples: how many there are.
    """

    builder: Any
    split: str
    num_examples: int

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[Example]:
        tfds = _import_tfds()
        # One file after the other, and no copy of the split in memory (TFDS's own default for
        # small data sets, which also warns when the reader stops early).
        config = tfds.ReadConfig(
            interleave_cycle_length=1, interleave_block_length=1, try_autocache=False
        )
        dataset = self.builder.as_dataset(split=self.split, shuffle_files=False, read_config=config)
        with _readable(self.builder):
            for example in tfds.as_numpy(dataset):
                yield plain(example)


@contextlib.contextmanager
def _readable(builder: Any) -> Iterator[None]:
    """Turns TensorFlow's errors of prepared files that are missing or damaged into a UserError."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise UserError(
            f"The data set {builder.info.full_name} cannot be read ({_told(error)}); delete "
            f"{builder.data_dir} to have it prepared again."
        ) from error


@functools.cache
def _import_tfds() -> Any:
    # What TensorFlow's C++ side would write to stderr about the machine; it only reads files here.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    # The GPUs are JAX's. TensorFlow refuses once it has used them, which is not our doing.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
    return tfds


@contextlib.contextmanager
def _brisk_download() -> Iterator[None]:
    """Within, TFDS gives up on an unreachable server after seconds, and prints to stderr.

    By itself it tries for several minutes (10 times, twice as long apart each time).
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    retries, level = downloader.MAX_RETRIES, URLLIB3_LOG.level
    downloader.MAX_RETRIES = min(retries, RETRIES)
    URLLIB3_LOG.setLevel(logging.ERROR)  # a warning a try otherwise
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        downloader.MAX_RETRIES = retries
        URLLIB3_LOG.setLevel(level)


def _told(error: Exception) -> str:
    """The kind of an error and the beginning of its message, to stand in brackets."""
    message = str(error).strip().partition("\n")[0]
    if len(message) > 200:
        message = message[:199] + "…"
    return f"{type(error).__name__}: {message}".rstrip(" :.")
