import json

import pytest

from softprompt_jax.training.logging import RunLog


@pytest.fixture
def log(tmp_path):
    """Makes a log in the test's folder and writes (step, metrics) lines to it."""

    def write(lines, first_step=0):
        log = RunLog(tmp_path, first_step, 10)
        for step, metrics in lines:
            log.write(step, metrics)
        log.close()

    return write


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps(folder):
    return [line["step"] for line in lines(folder)]


def test_a_line_a_write(tmp_path, log):
    log([(1, {"train/loss": 2.5}), (2, {"train/loss": float("nan"), "x": float("inf")})])
    assert lines(tmp_path) == [
        {"step": 1, "train/loss": 2.5},
        {"step": 2, "train/loss": None, "x": None},
    ]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_later_steps_are_dropped_on_resume(tmp_path, log):
    log([(step, {"a": 1.0}) for step in range(7)])
    log([(4, {"a": 2.0})], first_step=3)
    assert [(line["step"], line["a"]) for line in lines(tmp_path)] == [
        *((step, 1.0) for step in range(4)),
        (4, 2.0),
    ]


def test_a_run_that_starts_again_keeps_nothing(tmp_path, log):
    """A run killed before its first checkpoint evaluates step 0 anew."""
    log([(0, {"validation/accuracy": 0.5}), (1, {"a": 1.0})])
    log([(0, {"validation/accuracy": 0.5})])
    assert steps(tmp_path) == [0]


def test_the_test_split_is_told_once(tmp_path, log):
    log([(3, {"validation/accuracy": 0.5}), (3, {"test/accuracy": 0.5})])
    log([], first_step=3)
    assert lines(tmp_path) == [{"step": 3, "validation/accuracy": 0.5}]


@pytest.mark.parametrize(
    "broken", ['{"step": 2, "a', '{"step": 2, "a": 1.0}', "\0\0\0", "7\n", "\n"]
)
def test_a_line_that_was_not_written_to_its_end_is_dropped(tmp_path, log, broken):
    log([(1, {"a": 1.0})])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(broken)
    log([(2, {"a": 3.0})], first_step=5)
    assert lines(tmp_path) == [{"step": 1, "a": 1.0}, {"step": 2, "a": 3.0}]


def test_a_process_that_is_not_the_first_says_and_writes_nothing(tmp_path, capsys):
    log = RunLog(tmp_path, 0, 10, writes=False)
    log.say("hello")
    log.write(1, {"a": 1.0})
    log.advance(1, loss="1.0")
    log.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")
