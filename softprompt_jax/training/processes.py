"""One job of several processes: how they join, wait for each other, agree and end."""

import contextlib
import itertools
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from softprompt_jax.config import ParallelOptions
from softprompt_jax.errors import UserError

_START_SECONDS = 300  # for all processes to come up, as long as JAX itself waits
_HEARTBEAT_SECONDS = 60  # without a sign of life, until a process counts as dead
_LEAVE_SECONDS = 20  # for the others to find the same mistake
_PATIENCE_MS = 7 * 24 * 3600 * 1000  # for work that takes hours; a death ends the wait at once

_waits = itertools.count()  # the same on every process, since all wait for the same things


class LostProcessError(RuntimeError):
    """Another process of the job ended; the message says what to do."""


def join(options: ParallelOptions) -> None:
    """Makes this process one of its job, if it has one; before any device is touched.

    Where the options and the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID leave something out, JAX takes it from what TPU pods, SLURM, Kubernetes or Open
    MPI tell. A process that is alone joins nothing. Called again, it does nothing.

    Args:
        options: of the run.

    Raises:
        UserError: something is missing or contradicts itself, no other process answers, or devices
            were used already.
    """
    if jax.distributed.is_initialized():
        return
    address = options.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = _number(options.processes, "JAX_NUM_PROCESSES")
    index = _number(options.process, "JAX_PROCESS_ID")
    if count == 1:
        return
    if address is None or count is None or index is None:
        launcher = _launcher()
        if launcher is None:
            _check_alone(address, count, index)
            return
        if address is None and launcher.get_process_count() == 1:
            return
        count = launcher.get_process_count() if count is None else count
        index = launcher.get_process_id() if index is None else index
        if address is None:
            port = os.environ.get("JAX_COORDINATOR_PORT")
            address = launcher.get_coordinator_address(
                timeout_secs=_START_SECONDS, override_coordinator_port=port
            )
    if not 0 <= index < count:
        raise UserError(
            f"--parallel.process is {index}; of {count} processes the last is {count - 1}."
        )
    _check_address(address, is_host=index == 0)
    print(f"Process {index} of {count} joins the job at {address}.", file=sys.stderr, flush=True)
    # It would take SIGTERM for itself, also while no loop asks for it. `Agreement` does its work.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"Process {index} cannot join the job at {address} ({reason}); join before anything "
            "else uses JAX, and start every process once."
        ) from error
    if jax.process_count() != count:
        raise UserError(
            f"The job has {count} processes, but its devices belong to {jax.process_count()}; "
            "leave --parallel.processes out, or start one process a host."
        )


def _number(option: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if option is not None or text is None:
        return option
    if not text.isdecimal():
        raise UserError(f"{variable} is {text!r}; it must be a whole number.")
    return int(text)


def _launcher() -> Any:
    """JAX's description of what started this process; None: nothing that it knows."""
    # Not public, but the public entrance connects at once, and says nothing of a process alone.
    from jax._src.clusters import ClusterEnv, K8sCluster

    for cluster in ClusterEnv._cluster_types:
        if cluster.opt_in_only_method:
            continue
        # Without it a pod has no number, and asking Kubernetes for the rest may be forbidden.
        if cluster is K8sCluster and "JOB_COMPLETION_INDEX" not in os.environ:
            continue
        # A TPU without its metadata server, as in notebooks, is one host.
        with contextlib.suppress(OSError):
            if cluster.is_env_present():
                return cluster
    return None


def _check_alone(address: str | None, count: int | None, index: int | None) -> None:
    """Refuses a job of which only a part is told."""
    told = {
        "--parallel.coordinator": address,
        "--parallel.processes": count,
        "--parallel.process": index,
    }
    missing = [name for name, value in told.items() if value is None]
    if len(missing) < len(told):
        raise UserError(
            f"{missing[0]} is missing, and nothing else tells it here; give "
            f"{', '.join(told)} to every process, or none of them."
        )
    ranks = os.environ.get("OMPI_COMM_WORLD_SIZE", "1")
    if ranks != "1":  # of version 5, which no longer says where the first one is
        raise UserError(
            f"Open MPI started {ranks} processes, but does not tell where process 0 listens; give "
            "--parallel.coordinator, --parallel.processes and --parallel.process."
        )
    if jax.process_count() > 1:
        raise UserError(
            f"The devices belong to {jax.process_count()} processes that do not know each other; "
            "give --parallel.coordinator, --parallel.processes and --parallel.process."
        )


def _check_address(address: str, is_host: bool) -> None:
    """Finds what JAX would answer by aborting: an address that is none, is taken or is silent."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--parallel.coordinator is {address!r}; it must be host:port.")
    if is_host:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except OSError as error:
                raise UserError(
                    f"Process 0 cannot listen on port {port} ({error.strerror}); give another in "
                    "--parallel.coordinator."
                ) from None
        return
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"Nothing answers at {address} ({error.strerror or error}) after "
                    f"{_START_SECONDS} seconds; check --parallel.coordinator and that process 0 "
                    "runs."
                ) from None
        time.sleep(0.5)


def is_first() -> bool:
    """Whether this process is the one that writes files, speaks and draws the bar."""
    return jax.process_index() == 0


def joined() -> bool:
    """Whether `join` found a job."""
    return jax.distributed.is_initialized()


def several() -> bool:
    """Whether the job has more than one process."""
    return jax.process_count() > 1


@contextlib.contextmanager
def first_one_first() -> Iterator[None]:
    """Process 0 goes through the block, then the others, which find on disk what it left there.

    After the block all have been through it.

    Raises:
        UserError: on all others what was raised on process 0.
    """
    if not several():
        yield
        return
    key = f"softprompt_jax/first/{next(_waits)}"
    if is_first():
        try:
            yield
        except BaseException as error:
            _client().key_value_set(key, f"failed: {error or type(error).__name__}")
            raise
        _client().key_value_set(key, "done")
    else:
        told = _client().blocking_key_value_get(key, _PATIENCE_MS)
        if told != "done":
            raise UserError(told.removeprefix("failed: "))
        yield
    _client().wait_at_barrier(f"{key}/all", _PATIENCE_MS)


def wait_for_all() -> None:
    """Returns when every process is here."""
    if several():
        _client().wait_at_barrier(f"softprompt_jax/all/{next(_waits)}", _PATIENCE_MS)


def _client() -> Any:
    # Not public, but the public ways to wait are collectives of devices, which give up within
    # seconds or minutes; this one waits until a process is dead.
    from jax._src import distributed

    return distributed.global_state.client


class Agreement:
    """Wishes of single processes that all come to know at the same step.

    A signal reaches one process, and a clock passes a minute on one before another; but all have to
    save or stop at the same step. Each call leaves this process's wishes with the coordinator and
    gives those that any process had two calls before. A process that is alone gets its own at once.

    A loop calls it once a step, when the metrics of the step before were read: that step ended
    because every process had launched it, which each did after the call before that. So all see the
    same wishes, and none waits for another. A collective of its own would run beside the step's,
    where on CPU the two can take each other's messages.
    """

    _run = itertools.count()  # runs of one job do not read each other's wishes

    def __init__(self) -> None:
        self._folder = f"softprompt_jax/wishes/{next(self._run)}"
        self._calls = 0

    def __call__(self, *wishes: bool) -> tuple[bool, ...]:
        """What any process wished two calls before, in the order of the arguments."""
        if not several():
            return wishes
        call, self._calls = self._calls, self._calls + 1
        for number, wish in enumerate(wishes):
            if wish:
                key = f"{self._folder}/{call}/{number}"
                _client().key_value_set(key, "", allow_overwrite=True)
        granted = {key for key, _ in _client().key_value_dir_get(f"{self._folder}/{call - 2}/")}
        return tuple(
            f"{self._folder}/{call - 2}/{number}" in granted for number in range(len(wishes))
        )


def whole(tree: Any) -> Any:
    """Arrays that are spread over processes as numpy arrays on each; others as they are."""

    def gather(leaf: Any) -> Any:
        spread = isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        )
        return multihost_utils.process_allgather(leaf, tiled=True) if spread else leaf

    return jax.tree.map(gather, tree)


@contextlib.contextmanager
def telling_of_deaths() -> Iterator[None]:
    """Turns the failure of a collective, when another process ended, into a sentence.

    On TPU and GPU a collective with a dead process does not fail but waits; there JAX ends the
    process by itself when the signs of life are missing.

    Raises:
        LostProcessError: another process ended.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not several() or not _is_of_collective(error):
            raise
        raise LostProcessError(
            f"Another process of the job ended while process {jax.process_index()} waited for it; "
            "see what it said, then start all again: the run continues from its last checkpoint."
        ) from error


def _is_of_collective(error: Exception) -> bool:
    # Raised eagerly it is a ValueError, and by a computation that is waited for a JaxRuntimeError.
    signs = ("Gloo", "gloo", "coordination service", "UNAVAILABLE", "heartbeat")
    return any(sign in str(error) for sign in signs)


def leave(status: int, *, together: bool) -> None:
    """Ends a process that failed, without waiting for the others as long as JAX does.

    Args:
        status: to exit with.
        together: give the others some seconds to find the same mistake. Else they are told by the
            end of this process, which they wait for.
    """
    if together:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            _client().wait_at_barrier("softprompt_jax/leave", _LEAVE_SECONDS * 1000)
            if is_first():
                time.sleep(1)  # the others need it until they are gone
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
