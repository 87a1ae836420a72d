import subprocess
import sys

import numpy as np
import pytest

from softprompt_jax.errors import UserError
from softprompt_jax.tasks import Reference, Task, get_task, register_task, task, task_names


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
    assert mine.evaluation_rows({"x": 1}, task_prefix=False) == [("x 1", Reference(("yes",)))]
    references = [Reference(("yes",))] * 4
    metrics = mine.evaluate(["yes", "no", "Yes", ""], references)
    assert metrics == {"accuracy": 0.25, "outside_labels": 2.0}
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


def test_rows_to_train_on_and_to_evaluate_on_may_differ():
    def questions(example):
        return [(f"x {example['x']}", Reference(("yes", "yeah"), group=example["x"], holds=False))]

    mine = make(questions=questions, prefix="first:")
    assert mine.text_pairs({"x": 0}) == []
    assert mine.evaluation_rows({"x": 0}) == [
        ("first: x 0", Reference(("yes", "yeah"), group=0, holds=False))
    ]
    assert make(prefix="").text_pairs({"x": 1}) == [("x 1", "yes")]


def test_raw_examples_of_tensorflow_datasets_are_read_as_plain_python():
    raw = {
        "x": "ünder".encode(),
        "idx": {"row": np.int32(3), "of": np.array([1, 2])},
        "answers": np.array([b"a", b"b"], object),
        "score": np.float32(0.5),
    }
    assert task.plain(raw) == {
        "x": "ünder",
        "idx": {"row": 3, "of": [1, 2]},
        "answers": ["a", "b"],
        "score": 0.5,
    }
    assert make().text_pairs(raw) == [("mine_first x ünder", "yes")]


def test_the_mean_of_the_metrics_decides():
    # Lester et al. 2021, section 3: with several metrics their mean is the development metric.
    mine = make(metrics=("accuracy", "macro_f1"))
    metrics = mine.evaluate(["yes", "yes"], [Reference(("yes",)), Reference(("no",))])
    assert metrics["accuracy"] == 0.5
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert mine.main_value(metrics) == pytest.approx((0.5 + 1 / 3) / 2)


def test_likelihood_has_its_own_metric():
    language = make(evaluation="likelihood", metrics=("log_likelihood",))
    assert language.main_value({"log_likelihood": -2.0, "perplexity": 7.4}) == -2.0
    with pytest.raises(UserError, match="leave out the metrics"):
        make(evaluation="likelihood")


def test_imports_are_light():
    code = (
        "import sys, softprompt_jax.tasks.task, softprompt_jax.data.batches as _;"
        "print([m for m in ('torch', 'transformers', 'tensorflow', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
