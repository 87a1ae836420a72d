import subprocess
import sys

import pytest

from softprompt_jax.errors import UserError
from softprompt_jax.tasks import Task, get_task, register_task, task, task_names


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(task, "_FACTORIES", dict(task._FACTORIES))


def make(size=2, **options) -> Task:
    return Task(
        name="mine/first",
        load=lambda split: [{"x": i} for i in range(size)],
        pairs=lambda example: [(f"x {example['x']}", "yes")] if example["x"] else [],
        labels=("no", "yes"),
        **options,
    )


def test_register_and_get():
    register_task("mine/first", make)
    assert "mine/first" in task_names()
    mine = get_task("mine/first", size=3, evaluation=None)
    assert len(mine.split("train")) == 3
    assert mine.text_pairs({"x": 1}, task_prefix=False) == [("x 1", "yes")]
    assert mine.text_pairs({"x": 1}) == [("mine_first x 1", "yes")]
    assert mine.text_pairs({"x": 0}) == []  # left out
    assert mine.evaluate(["yes", "no"], ["yes", "yes"]) == {"accuracy": 0.5}
    assert get_task("mine/first", evaluation="generate").evaluation == "generate"
    with pytest.raises(UserError, match="already"):
        register_task("mine/first", make)
    with pytest.raises(UserError, match="named ''"):
        register_task("", make)


def test_unknown_task_names_the_nearest_and_all():
    register_task("mine/first", make)
    with pytest.raises(UserError, match=r"did you mean movie_reviews.*mine/first, movie_reviews"):
        get_task("movie_review")
    with pytest.raises(UserError, match=r"no task 'q'.*train_file"):
        get_task("q")


def test_unknown_option():
    with pytest.raises(UserError, match="movie_reviews has no option colour"):
        get_task("movie_reviews", colour="red")
    with pytest.raises(UserError, match="did you mean input_column"):
        get_task("mine", train_file="a.csv", input_colum="x")
    with pytest.raises(UserError, match="built-in"):
        get_task("movie_reviews", train_file="a.csv")


def test_bad_tasks():
    with pytest.raises(UserError, match="no 'dev' split; it has train, validation, test"):
        make().split("dev")
    with pytest.raises(UserError, match="train split of task mine/first is empty"):
        make(size=0).split("train")
    with pytest.raises(UserError, match="evaluation='guess'"):
        make(evaluation="guess")
    with pytest.raises(UserError, match="truncate='middle'"):
        make(truncate="middle")
    with pytest.raises(UserError, match="did you mean accuracy"):
        make(metrics=("acuracy",))
    with pytest.raises(UserError, match="no metric"):
        make(metrics=())
    with pytest.raises(UserError, match="at least two"):
        Task(name="t", load=lambda split: [], pairs=lambda example: [], labels=("a",))


def test_imports_are_light():
    code = (
        "import sys, softprompt_jax.tasks.task, softprompt_jax.data.batches as _;"
        "print([m for m in ('torch', 'transformers', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
