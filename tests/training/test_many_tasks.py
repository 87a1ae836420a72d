"""Runs of several tasks: mixtures, transfer to other tasks, ways to evaluate, kept tokens."""

import dataclasses
import json

import pytest
from small_runs import changed, sentiment_rows, small_config

import softprompt_jax as sp
from softprompt_jax.config import RunConfig, TaskOptions
from softprompt_jax.data import splits as data_splits
from softprompt_jax.errors import UserError
from softprompt_jax.tasks import Reference, Task, get_task, rename_labels, task
from softprompt_jax.training.setup import tasks_from_options, transfer_tasks
from softprompt_jax.training.tuning import TaskSubject

LABELS = ("negative", "positive")


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(task, "_FACTORIES", dict(task._FACTORIES))


def register(name, count, *, labels=LABELS, splits=("train", "validation"), **options):
    """A task of the small runs' rows, its labels perhaps under other names."""
    names = dict(zip(LABELS, labels, strict=True))
    rows = {split: sentiment_rows(count, seed) for seed, split in enumerate(splits)}

    def pairs(example):
        return [(example["input"], names[example["target"]])]

    fields = {"labels": labels, **options}
    sp.register_task(
        name,
        lambda: Task(
            name=name,
            load=rows.__getitem__,
            pairs=pairs,
            splits=splits,
            **fields,
        ),
    )


def lines(config):
    path = f"{config.workdir}/metrics.jsonl"
    with open(path) as file:
        return [json.loads(line) for line in file]


@pytest.mark.slow
def test_a_mixture_trains_on_all_and_evaluates_each(tmp_path):
    register("mix/large", 24)
    register("mix/small", 4)
    config = small_config(
        tmp_path,
        task__train_file=None,
        task__validation_file=None,
        task__name="both",
        task__mixture=("mix/large=1", "mix/small=3"),
        task__task_prefix=True,
        train__steps=4,
    )
    result = sp.train(config)
    metrics = result.metrics
    assert set(metrics) == {
        f"validation/mix/{name}/{metric}"
        for name in ("large", "small")
        for metric in ("accuracy", "outside_labels")
    } | {"validation/mean"}
    mean = (metrics["validation/mix/large/accuracy"] + metrics["validation/mix/small/accuracy"]) / 2
    assert metrics["validation/mean"] == pytest.approx(mean)
    assert result.best_prompt is not None
    assert result.best_prompt.card["task"] == "both"
    assert result.best_prompt.card["labels"] == list(LABELS)


@pytest.mark.slow
def test_the_best_prompt_is_scored_on_other_tasks(tmp_path):
    """A tuned model that says "positive" is judged by words that mean the same elsewhere."""
    register("glue/source", 24)
    # The same rows in every respect, but for the label words.
    register("glue/target", 24, labels=("bad", "good"))
    config = small_config(
        tmp_path,
        task__train_file=None,
        task__validation_file=None,
        task__name="glue/source",
        train__method="model_tuning",
        train__steps=30,
        optimizer__learning_rate=0.01,
        evaluate_on=("glue/source", "glue/target"),
    )
    plain = sp.train(config).metrics
    assert plain["evaluate_on/glue/source/accuracy"] == plain["validation/accuracy"] > 0.6

    renamed = {"negative": "bad", "positive": "good"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "softprompt_jax.training.tuning.rename_labels",
            lambda source, target: renamed if target == "glue/target" else None,
        )
        again = sp.train(changed(config, workdir=str(tmp_path / "renamed"))).metrics
    assert again["evaluate_on/glue/target/accuracy"] == again["validation/accuracy"]
    assert again["evaluate_on/glue/target/outside_labels"] == 0
    assert lines(config)[-1]["evaluate_on/glue/source/accuracy"] > 0.6


def test_the_paper_s_rename():
    assert rename_labels("glue/qqp", "glue/mrpc") == {
        "duplicate": "equivalent",
        "not_duplicate": "not_equivalent",
    }


@pytest.mark.slow
def test_evaluation_by_likelihood_and_by_text(tmp_path):
    register("text/likely", 24, labels=LABELS, evaluation="likelihood", metrics=("log_likelihood",))
    config = small_config(
        tmp_path,
        task__train_file=None,
        task__validation_file=None,
        task__name="text/likely",
        train__steps=8,
        train__evaluate_first=True,
    )
    result = sp.train(config)
    evaluations = [line for line in lines(config) if "validation/perplexity" in line]
    assert [line["step"] for line in evaluations] == [0, 4, 8]
    values = [line["validation/log_likelihood"] for line in evaluations]
    assert result.metrics["validation/log_likelihood"] == max(values)
    assert values[-1] > values[0]

    register(
        "text/several",
        24,
        labels=LABELS,
        evaluation="generate",
        questions=lambda example: [(example["input"], Reference(LABELS))],
        metrics=("exact_match",),
    )
    config = changed(config, task__name="text/several", workdir=str(tmp_path / "several"))
    metrics = sp.train(changed(config, train__method="model_tuning", train__steps=20)).metrics
    # Whatever of the two it says is accepted, and what is neither is counted.
    outside = metrics["validation/outside_labels"]
    assert metrics["validation/exact_match"] == pytest.approx(1 - outside / 24)


def test_tokens_are_kept_for_the_next_run(tmp_path, monkeypatch):
    config = small_config(tmp_path, train__steps=1, task__cache_dir=str(tmp_path / "tokens"))
    first = sp.train(config)
    assert len(list((tmp_path / "tokens").iterdir())) == 2

    def never(*_args, **_options):
        raise AssertionError("tokenised anew")

    monkeypatch.setattr(data_splits, "tokenize_pairs", never)
    second = sp.train(changed(config, workdir=str(tmp_path / "again")))
    assert second.metrics == first.metrics
    with pytest.raises(AssertionError, match="tokenised anew"):
        sp.train(changed(config, workdir=str(tmp_path / "shorter"), task__max_input_length=4))
    with open(config.task.train_file, "a") as file:
        file.write(json.dumps({"input": "the film good", "target": "positive"}) + "\n")
    with pytest.raises(AssertionError, match="tokenised anew"):
        sp.train(changed(config, workdir=str(tmp_path / "longer")))


def test_fewer_examples_to_train_on(tmp_path):
    config = small_config(tmp_path, train__steps=1, task__train_examples=9, train__log_every=1)
    split = sp.train(config)
    assert split.finished
    from softprompt_jax.data.cache import TokenCache

    cache = TokenCache(tmp_path / "run" / "cache")
    sizes = sorted(len(cache.load(path.stem)[0]) for path in cache.folder.iterdir())
    assert sizes == [9, 24]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task__mixture": ("mix/a", "mix/aa")}, "no task .mix/aa.: did you mean mix/a"),
        ({"task__mixture": ("mix/a=0", "mix/b=1")}, "'mix/a=0'; a rate is a positive number"),
        ({"task__mixture": ("mix/a=2", "mix/b")}, "rates for 1 of 2 tasks; give all or none"),
        ({"task__mixture": ("mix/a", "mix/a")}, "names a task twice"),
        ({"task__mixture_limit": 5}, "leave it out"),
        ({"task__mixture": ("mix/a=1",), "task__mixture_limit": 5}, "leave it out"),
        ({"task__mixture": ("mix/a", "mix/late")}, "has no 'train' split.*--evaluate_on"),
        ({"task__name": "mix/a", "evaluate_on": ("mix/c",)}, "no task 'mix/c'"),
        ({"task__name": "mix/a", "task__data_dir": "/data"}, "not for mix/a; leave it out"),
        ({"task__mixture": ("mix/a", "mix/b"), "task__data_dir": "/data"}, "not for mix/a, mix/b"),
    ],
)
def test_mistakes(tmp_path, changes, message):
    for name in ("mix/a", "mix/b"):
        register(name, 8)
    register("mix/late", 8, splits=("test",))
    config = small_config(
        tmp_path, task__train_file=None, task__validation_file=None, task__name="both"
    )
    with pytest.raises(UserError, match=message):
        sp.train(changed(config, **changes))


def test_the_data_folder_is_for_the_tasks_that_read_from_it():
    register("mix/a", 8)
    data_dirs = []

    def factory(data_dir=None):
        data_dirs.append(data_dir)
        return dataclasses.replace(get_task("mix/a"), name="mix/read")

    sp.register_task("mix/read", factory)
    options = TaskOptions(mixture=("mix/a", "mix/read"), data_dir="/data")
    assert [each.name for each in tasks_from_options(options)] == ["mix/a", "mix/read"]
    alone = TaskOptions(name="mix/a", data_dir="/data")
    assert len(tasks_from_options(alone, evaluate_on=("mix/read",))) == 1
    assert len(transfer_tasks(RunConfig(task=alone, evaluate_on=("mix/a", "mix/read")))) == 2
    assert data_dirs == ["/data", "/data"]


@pytest.mark.parametrize("name", ["movie_reviews", "both"])
def test_the_name_of_a_mixture(name):
    for each in ("mix/a", "mix/b"):
        register(each, 8)
    options = TaskOptions(name=name, mixture=("mix/a=1", "mix/b=2"))
    subject = TaskSubject(
        RunConfig(task=options), None, tasks_from_options(options), [], None, None
    )
    assert subject.name == ("both" if name == "both" else "mix/a+mix/b")
    alone = TaskOptions(name="mix/a")
    subject = TaskSubject(RunConfig(task=alone), None, tasks_from_options(alone), [], None, None)
    assert subject.name == "mix/a"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("evaluation", "prefix"),
    [("score", "<extra_id_0>"), ("generate", "<extra_id_0>"), ("generate", "film")],
)
def test_a_word_before_each_target(tmp_path, evaluation, prefix):
    config = small_config(
        tmp_path,
        task__evaluation=evaluation,
        task__target_prefix=f"{prefix} ",
        train__method="model_tuning",
        train__steps=30,
        train__evaluate_every=15,
        optimizer__learning_rate=0.01,
    )
    tokenizer = sp.load_model(config.model.name).tokenizer
    split = data_splits.read_split(
        config.task,
        tasks_from_options(config.task)[0],
        "train",
        tokenizer,
        sp.load_model(config.model.name).config,
    )
    said = tokenizer.convert_tokens_to_ids("▁film" if prefix == "film" else prefix)
    words = set(tokenizer.convert_tokens_to_ids(["▁positive", "▁negative"]))
    examples = split.examples
    for start, end in zip(examples.target_offsets, examples.target_offsets[1:], strict=False):
        first, word, last = examples.targets[start:end]
        assert (first, word in words, last) == (said, True, 1)
    assert sum(split.label_counts.values()) == (24 if evaluation == "score" else 0)
    # Answers are judged without it, and the model learns to say it.
    metric = "accuracy" if evaluation == "score" else "exact_match"
    assert sp.train(config).metrics[f"validation/{metric}"] > 0.6
