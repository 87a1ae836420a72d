import os
import socket

import jax
import numpy as np
import pytest

from softprompt_jax.config import ParallelOptions, RunConfig
from softprompt_jax.errors import UserError
from softprompt_jax.training import processes
from softprompt_jax.training.workdir import Workdir

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT", "JAX_NUM_PROCESSES")


@pytest.fixture(autouse=True)
def joined(monkeypatch):
    """What would be asked of JAX, in a bare environment: (address, processes, process)."""
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "KUBERNETES_", "JOB_COMPLETION")):
            monkeypatch.delenv(name)
    for name in (*VARIABLES, "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    calls = []

    def initialize(address, count, index, **_):
        calls.append((address, count, index))
        monkeypatch.setattr(jax, "process_count", lambda: count)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes, "_check_address", lambda *_, **__: None)
    service = jax.config.jax_enable_preemption_service
    yield calls
    jax.config.update("jax_enable_preemption_service", service)


def slurm(monkeypatch, tasks):
    for name, value in {
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": "node[007-010]",
        "SLURM_NTASKS": str(tasks),
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
    }.items():
        monkeypatch.setenv(name, value)


def test_a_process_alone_joins_nothing(joined):
    processes.join(ParallelOptions())
    assert joined == []
    assert not processes.joined()
    assert processes.is_first()
    assert not processes.several()


def test_options(joined):
    processes.join(ParallelOptions(coordinator="10.0.0.1:1234", processes=2, process=0))
    assert joined == [("10.0.0.1:1234", 2, 0)]


def test_variables_and_the_options_that_win_over_them(joined, monkeypatch):
    for name, value in zip(VARIABLES, ("host:1", "1", "4"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    processes.join(ParallelOptions(process=1))
    assert joined == [("host:1", 4, 1)]


def test_slurm(joined, monkeypatch):
    slurm(monkeypatch, 4)
    processes.join(ParallelOptions())
    assert joined == [("node007:61441", 4, 2)]


def test_one_task_of_slurm_is_alone(joined, monkeypatch):
    slurm(monkeypatch, 1)
    processes.join(ParallelOptions())
    assert joined == []


def test_alone_because_it_is_told(joined, monkeypatch):
    slurm(monkeypatch, 4)
    processes.join(ParallelOptions(processes=1))
    assert joined == []


def test_open_mpi_4(joined, monkeypatch):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911")
    for name, value in (("SIZE", "3"), ("RANK", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "5000")
    processes.join(ParallelOptions())
    assert joined == [("10.96.0.1:5000", 3, 1)]


def test_open_mpi_5_does_not_tell_enough(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"Open MPI started 3 processes.*--parallel.coordinator"):
        processes.join(ParallelOptions())


def test_a_pod_without_a_number_asks_kubernetes_nothing(joined, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    processes.join(ParallelOptions())
    assert joined == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "a:1"}, "--parallel.processes is missing"),
        ({"coordinator": "a:1", "processes": 2}, "--parallel.process is missing"),
        ({"process": 0}, "--parallel.coordinator is missing"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "process is 2.*the last is 1"),
    ],
)
def test_parts_that_are_missing_or_wrong(options, message):
    with pytest.raises(UserError, match=message):
        processes.join(ParallelOptions(**options))


def test_a_variable_that_is_no_number(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES is 'two'"):
        processes.join(ParallelOptions())


def test_devices_that_were_used_already(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("initialize() must be called before any JAX calls.\nMore.")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(UserError, match=r"JAX calls\); join before anything else"):
        processes.join(ParallelOptions(coordinator="a:1", processes=2, process=0))


class TestAddress:
    @pytest.fixture(autouse=True)
    def real(self, monkeypatch):
        monkeypatch.undo()
        monkeypatch.setattr(processes, "_START_SECONDS", 0)

    @pytest.mark.parametrize("address", ["host", ":80", "host:", "host:http", "host:70000"])
    def test_that_is_none(self, address):
        with pytest.raises(UserError, match="it must be host:port"):
            processes._check_address(address, is_host=True)

    def test_that_is_taken(self):
        with socket.socket() as other:
            other.bind(("", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(UserError, match=f"cannot listen on port {port}"):
                processes._check_address(f"localhost:{port}", is_host=True)
            processes._check_address(f"localhost:{port}", is_host=False)

    def test_that_is_silent(self):
        with socket.socket() as other:  # bound and not listening: nobody else gets it meanwhile
            other.bind(("127.0.0.1", 0))
            port = other.getsockname()[1]
            with pytest.raises(UserError, match=f"Nothing answers at localhost:{port}"):
                processes._check_address(f"localhost:{port}", is_host=False)


def test_wishes_of_a_process_alone_come_back_at_once():
    agree = processes.Agreement()
    assert agree(True, False) == (True, False)
    assert agree(False, False) == (False, False)


def test_wishes_of_several_processes_are_granted_to_all_two_calls_later(monkeypatch):
    class Coordinator(dict):
        def key_value_set(self, key, value, allow_overwrite):
            assert allow_overwrite  # several may wish the same
            self[key] = value

        def key_value_dir_get(self, folder):
            return [(key, value) for key, value in self.items() if key.startswith(folder)]

    coordinator = Coordinator()
    monkeypatch.setattr(processes, "_client", lambda: coordinator)
    monkeypatch.setattr(processes, "several", lambda: True)
    one, other = processes.Agreement(), processes.Agreement()
    other._folder = one._folder  # as the first of another process has it
    told = [
        (one(*ours), other(*theirs))
        for ours, theirs in [
            ((False, False), (False, True)),
            ((True, False), (False, False)),
            ((True, True), (True, False)),
            ((False, False), (False, False)),
            ((False, False), (False, False)),
            ((False, False), (False, False)),
        ]
    ]
    assert [ours == theirs for ours, theirs in told] == [True] * 6
    assert [ours for ours, _ in told] == [
        (False, False),
        (False, False),
        (False, True),
        (True, False),
        (True, True),
        (False, False),
    ]


def test_alone_everything_is_whole():
    tree = {"a": jax.numpy.arange(3), "b": np.ones(2), "c": None}
    assert processes.whole(tree)["a"] is tree["a"]
    with processes.first_one_first():
        processes.wait_for_all()


def test_only_lost_processes_are_told_as_such(monkeypatch):
    with pytest.raises(ValueError, match="Gloo"), processes.telling_of_deaths():
        raise ValueError("Gloo all-reduce failed")  # alone it cannot be that
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(processes.LostProcessError), processes.telling_of_deaths():
        raise ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer")
    with pytest.raises(ValueError, match="shape"), processes.telling_of_deaths():
        raise ValueError("a shape is wrong")


def test_a_folder_that_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    config = RunConfig(workdir=str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"Process 3 does not see .*config.json, which process 0"):
        Workdir(config)
    assert not (tmp_path / "run").exists()
