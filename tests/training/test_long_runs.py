"""What long runs need: checkpoints by the clock, rates and memory in the log, a trace."""

import json

import pytest
from small_runs import small_config, trace_events

from softprompt_jax.training.tuning import train

RARELY = {"train__evaluate_every": 100, "train__checkpoint_every": 100}


def checkpoints(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run whose checkpoints are too old at once, traced for two steps."""
    folder = tmp_path_factory.mktemp("watched")
    changes = RARELY | {"train__checkpoint_minutes": 1e-9, "train__log_every": 4, "profile": 2}
    return train(small_config(folder, **changes)).workdir


def test_checkpoints_by_the_clock(watched, tmp_path):
    assert checkpoints(watched) == [9, 12]  # the last two of one every third step
    by_steps = train(small_config(tmp_path, **RARELY, train__checkpoint_minutes=None))
    assert checkpoints(by_steps.workdir) == [12]


def test_rates_and_memory_stand_in_the_log(watched):
    lines = [json.loads(line) for line in (watched / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in trained] == [4, 8, 12]
    for line in trained:
        assert line["memory/host_bytes"] > 2**25
        assert line["train/examples_per_second"] > 0
        assert line["train/tokens_per_second"] <= line["train/padded_tokens_per_second"]
    # Every batch of 8 is padded to 6 + 2 tokens.
    ratios = [
        line["train/padded_tokens_per_second"] / line["train/examples_per_second"]
        for line in trained
    ]
    assert ratios == pytest.approx([8.0] * 3)


def test_the_trace_of_a_run(watched):
    events = trace_events(watched / "profile")
    assert any("PjitFunction" in event.get("name", "") for event in events)
