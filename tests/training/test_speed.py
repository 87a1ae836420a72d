from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from small_runs import trace_events

from softprompt_jax.data import Shape
from softprompt_jax.training import speed
from softprompt_jax.training.chips import Chip
from softprompt_jax.training.speed import Speed, Trace, memory_in_use
from softprompt_jax.training.workdir import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told."""
    times = [100.0]
    monkeypatch.setattr(speed.time, "monotonic", lambda: times[0])
    return times


def test_rates_since_the_last_line(clock, monkeypatch):
    monkeypatch.setattr(speed, "chip_of", lambda _: Chip("toy", 1, 1000.0, 1.0))
    progress = Progress(timed_examples=7, timed_seconds=1.0)
    rates = Speed(progress, lambda shape: 100 * shape.inputs, jax.devices()[:2])
    assert rates.line() == {}
    clock[0] = 150.0  # something else, such as an evaluation
    rates.start()
    clock[0] += 2.0
    rates.add(Shape(5, 1), 8, (30, 48))
    clock[0] += 3.0  # the next step was in flight meanwhile
    rates.add(Shape(10, 1), 8, (50, 88))
    assert rates.line() == pytest.approx(
        {
            "examples_per_second": 16 / 5,
            "tokens_per_second": 80 / 5,
            "padded_tokens_per_second": 136 / 5,
            "flop_utilization": (500 + 1000) / 5 / 2000,
        }
    )
    assert rates.line() == {}
    clock[0] += 1.0
    rates.add(Shape(5, 1), 8, (30, 48))
    assert rates.line()["examples_per_second"] == 8
    assert (progress.timed_examples, progress.timed_seconds) == (7 + 24, 7.0)


def test_no_utilization_of_unknown_chips(clock):
    rates = Speed(Progress(), lambda _: 1, jax.devices())
    clock[0] += 1
    rates.add(Shape(1, 1), 1, (1, 2))
    assert "flop_utilization" not in rates.line()


class FakeDevice:
    def __init__(self, **stats):
        self.memory_stats = lambda: stats or None


def test_memory_of_the_fullest_device(monkeypatch):
    devices = [
        FakeDevice(bytes_in_use=5, peak_bytes_in_use=9),
        FakeDevice(bytes_in_use=7, peak_bytes_in_use=8),
    ]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory_in_use() == {"memory/device_bytes": 7, "memory/device_peak_bytes": 9}


def test_memory_of_the_process_where_devices_do_not_tell():
    told = memory_in_use()["memory/host_bytes"]
    # Another place where Linux tells it. What memory a process is given or loses is the system's
    # business, so nothing is said of how it grows.
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line
    )
    assert told == pytest.approx(1024 * int(line.split()[1]), rel=0.02)
    assert told > 2**25  # jax alone takes more


def test_a_trace_of_some_steps(tmp_path):
    double = jax.jit(lambda x: x + x)
    x = double(jnp.ones(3))
    trace = Trace(tmp_path / "profile", 2)
    done = []
    for _ in range(4):
        trace.start()
        double(x).block_until_ready()
        done.append(trace.count())
        if done[-1]:
            trace.stop()
    assert done == [False, True, False, False]
    events = trace_events(tmp_path / "profile")
    assert any("PjitFunction" in event.get("name", "") for event in events)


def test_no_trace_unless_asked_for(tmp_path):
    trace = Trace(tmp_path / "profile", None)
    trace.start()
    assert not trace.count()
    trace.stop()
    assert not (tmp_path / "profile").exists()
