"""What the evaluation command reports of prompts and their ensemble."""

import dataclasses
import json
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lively_models import make_lively, random_prompt
from small_runs import sentiment_rows, small_config, write_recipe, write_rows

import softprompt_jax as sp
from softprompt_jax import evaluate
from softprompt_jax.config import RunConfig, TaskOptions
from softprompt_jax.errors import UserError
from softprompt_jax.inference.setup import task_options
from softprompt_jax.models import load_model
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.tasks import get_task
from softprompt_jax.training.parallel import PmapLayout

LABELS = ("negative", "positive")
NAMES = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A lively model, four prompts of one length and one of another, and a task's files."""
    folder = tmp_path_factory.mktemp("evaluate")
    model = make_lively(folder / "model", "gpt2", n_layer=1, n_positions=64)
    for seed, name in enumerate((*NAMES, "short")):
        card = {"model": str(model), "task": "sentiment", "labels": list(LABELS)}
        vectors = random_prompt(2 if name == "short" else 4, seed)
        SoftPrompt(jnp.asarray(vectors), card).save(folder / name)
    for seed, split in enumerate(("train", "validation", "test")):
        write_rows(folder / f"{split}.jsonl", sentiment_rows(24, seed))
    return folder


def options_of(folder, *names):
    return [
        *("--prompts", ",".join(f"{name}={folder / name}" for name in names or NAMES)),
        *("--task", "sentiment", "--task.train_file", folder / "train.jsonl"),
        *("--task.validation-file", folder / "validation.jsonl"),
        *("--batch-size", 8, "--devices", 1, "--task.max-target-length", 3),
    ]


@pytest.fixture
def run(monkeypatch, capfd):
    monkeypatch.setenv("CI", "1")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["softprompt_jax.evaluate", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("softprompt_jax.evaluate", run_name="__main__")
        captured = capfd.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def rows_of(folder, split="validation"):
    rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
    return [row["input"] for row in rows], [row["target"] for row in rows]


def share(predictions, targets):
    return sum(p == t for p, t in zip(predictions, targets, strict=True)) / len(targets)


def test_scored_labels(folder, run, tmp_path):
    output = tmp_path / "report.json"
    status, out, err = run(*options_of(folder), "--ensemble", "--json", "--output", output)
    assert status == 0, err
    report = json.loads(out)
    assert json.loads(output.read_text()) == report
    texts, targets = rows_of(folder)
    model = load_model(str(folder / "model"))
    prompts = {name: SoftPrompt.load(folder / name) for name in NAMES}
    vectors = np.mean([np.asarray(prompt.vectors) for prompt in prompts.values()], axis=0)
    scores = {
        name: sp.Predictor(model, {name: prompt}, devices=1).score(texts, LABELS)
        for name, prompt in {**prompts, "mean": SoftPrompt(jnp.asarray(vectors))}.items()
    }
    accuracies = {
        name: share([LABELS[i] for i in each.argmax(axis=1)], targets)
        for name, each in scores.items()
    }
    assert {name: each["accuracy"] for name, each in report["prompts"].items()} == {
        name: accuracies[name] for name in NAMES
    }
    values = [accuracies[name] for name in NAMES]
    assert len(set(values)) > 1
    assert report["mean"]["accuracy"] == pytest.approx(np.mean(values))
    assert report["standard_deviation"]["accuracy"] == pytest.approx(np.std(values, ddof=1))
    assert accuracies[report["best"]] == max(values)

    voted, likeliest = [], []
    for row in range(len(texts)):
        own = np.array([scores[name][row] for name in NAMES], np.float64)
        ayes = int((own[:, 1] > own[:, 0]).sum())
        tie = ayes == 2
        sums = own.sum(axis=0)
        voted.append(LABELS[int(sums[1] > sums[0]) if tie else int(ayes > 2)])
        share_of_one = [1 / (1 + np.exp(a - b)) for a, b in own]
        likeliest.append(LABELS[int(np.mean(share_of_one) > 0.5)])
    assert {name: each["accuracy"] for name, each in report["ensemble"].items()} == {
        "majority_vote": share(voted, targets),
        "mean_probability": share(likeliest, targets),
        "mean_prompt": accuracies["mean"],
    }
    assert (report["task"], report["split"], report["examples"]) == ("sentiment", "validation", 24)
    assert report["cut_inputs"] == 0


def test_table(folder, run):
    status, out, _ = run(*options_of(folder), "--ensemble")
    assert status == 0
    report = json.loads(run(*options_of(folder), "--ensemble", "--json")[1])
    lines = [line.split() for line in out.splitlines()]
    assert out.startswith(f"sentiment, validation: 24 rows, {folder / 'model'}\n")
    shown = {name: f"{each['accuracy']:.4f}" for name, each in report["prompts"].items()}
    for name, accuracy in shown.items():
        assert [name, accuracy] in lines
    mean, spread = report["mean"]["accuracy"], report["standard_deviation"]["accuracy"]
    (line,) = [line for line in out.splitlines() if line.startswith("mean ± standard deviation")]
    assert f"{mean:.4f} ± {spread:.4f}" in line
    (line,) = [line for line in out.splitlines() if line.startswith("best: ")]
    assert line.split()[1:3] == [report["best"], shown[report["best"]]]
    words = ("majority vote", "averaged probabilities", "averaged vectors")
    for word, each in zip(words, report["ensemble"].values(), strict=True):
        (line,) = [line for line in out.splitlines() if line.startswith(word)]
        assert line.split()[2] == f"{each['accuracy']:.4f}"
    _, alone, _ = run(*options_of(folder))
    assert "vote" not in alone
    assert alone.splitlines()[:7] == out.splitlines()[:7]


def test_generated_text(folder, run):
    arguments = [*options_of(folder, "one", "two", "short"), "--task.evaluation", "generate"]
    arguments += ["--task.metrics", "accuracy", "exact_match", "--split", "validation"]
    status, out, err = run(*arguments, "--ensemble", "--json")
    assert status == 0, err
    report = json.loads(out)
    texts, targets = rows_of(folder)
    model = load_model(str(folder / "model"))
    answers = {
        name: sp.Predictor(model, {name: SoftPrompt.load(folder / name)}, devices=1).generate(
            texts, max_new_tokens=3
        )
        for name in ("one", "two", "short")
    }
    for name, each in answers.items():
        told = report["prompts"][name]
        assert told["accuracy"] == share(each, targets)
        assert told["mean_of_metrics"] == pytest.approx(
            (told["accuracy"] + told["exact_match"]) / 2
        )
    # Prompts of two lengths have no mean, and texts no probabilities beside each other.
    assert report["ensemble"]["mean_prompt"] is None
    assert report["ensemble"]["mean_probability"] is None
    assert report["ensemble"]["majority_vote"]["accuracy"] <= 1
    table = run(*arguments, "--ensemble")[1]
    (line,) = [line for line in table.splitlines() if line.startswith("averaged vectors")]
    assert set(line.split()[2:]) == {"-"}


def test_a_trained_prompt_has_the_metrics_of_its_run(tmp_path, run):
    config = small_config(tmp_path, "t5", task__test_file=None)
    result = sp.train(config)
    recipe = write_recipe(config, tmp_path)
    status, out, err = run("--prompts", result.workdir / "best", "--config", recipe, "--json")
    assert status == 0, err
    report = json.loads(out)
    (metrics,) = report["prompts"].values()
    assert metrics["accuracy"] == result.metrics["validation/accuracy"]
    assert report["standard_deviation"] is None
    assert "ensemble" not in report


def test_a_path_may_have_an_equals_sign(folder, run, tmp_path):
    sweep = tmp_path / "lr=0.3"
    sweep.mkdir()
    (sweep / "best").symlink_to(folder / "one")
    arguments = [*options_of(folder, "one"), "--json"]
    named = json.loads(run(*arguments)[1])["prompts"]["one"]
    path = str(sweep / "best")
    assert json.loads(run(*arguments, "--prompts", path)[1])["prompts"] == {path: named}


def test_first_examples_and_other_splits(folder, run):
    arguments = [*options_of(folder, "one"), "--task.test-file", folder / "test.jsonl", "--json"]
    report = json.loads(run(*arguments, "--split", "test", "--examples", "5")[1])
    texts, targets = rows_of(folder, "test")
    predictor = sp.Predictor.load(str(folder / "model"), {"one": folder / "one"}, devices=1)
    best = predictor.score(texts[:5], LABELS).argmax(axis=1)
    assert (report["split"], report["examples"]) == ("test", 5)
    assert report["prompts"]["one"]["accuracy"] == share([LABELS[i] for i in best], targets[:5])


def test_renamed_labels(folder, monkeypatch, tmp_path):
    """A prompt for QQP says the words of QQP where MRPC is asked."""
    card = {"model": str(folder / "model"), "task": "glue/qqp"}
    prompt = SoftPrompt(jnp.asarray(random_prompt(2)), card)
    task = get_task("movie_reviews")
    qqp, mrpc = ("not_duplicate", "duplicate"), ("not_equivalent", "equivalent")
    rows = [({"text": "the film"}, "equivalent"), ({"text": "a sky"}, "not_equivalent")]
    task = dataclasses.replace(
        task,
        name="glue/mrpc",
        labels=mrpc,
        load=lambda split: [{"text": row["text"], "label": label} for row, label in rows],
        pairs=lambda example: [(example["text"], example["label"])],
        input_suffix="",
    )
    monkeypatch.setattr(evaluate, "tasks_from_options", lambda options: [task])
    options = evaluate.TaskOptions(name="glue/mrpc")
    one = PmapLayout(jax.devices()[:1])
    files = sp.models.resolve_model(card["model"])
    opened = evaluate.Opened({"p": prompt}, files, "float32", 4, one)
    job = evaluate.prepare(options, "validation", None, opened)
    assert job.said == qqp
    prefixed = dataclasses.replace(options, target_prefix="answer ")
    said = evaluate.prepare(prefixed, "validation", None, opened).said
    assert said == ("answer not_duplicate", "answer duplicate")
    report = evaluate.evaluate(job, opened, False)
    predictor = sp.Predictor(load_model(card["model"]), {"p": prompt}, devices=1)
    best = predictor.score([row["text"] for row, _ in rows], qqp).argmax(axis=1)
    expected = share([mrpc[i] for i in best], [label for _, label in rows])
    assert report["prompts"]["p"]["accuracy"] == expected
    # Generated words are taken back too.
    task = dataclasses.replace(task, evaluation="generate")
    job = evaluate.prepare(options, "validation", None, opened)
    assert job.said == ()
    monkeypatch.setattr(
        sp.Predictor, "generate", lambda self, texts, *_: ["duplicate", "equivalent"][: len(texts)]
    )
    report = evaluate.evaluate(job, opened, False)
    assert report["prompts"]["p"]["accuracy"] == 0.5
    # So is what is said before each of them.
    job = evaluate.prepare(prefixed, "validation", None, opened)
    monkeypatch.setattr(
        sp.Predictor,
        "generate",
        lambda self, texts, *_: ["answer duplicate", "not_duplicate"][: len(texts)],
    )
    report = evaluate.evaluate(job, opened, False)
    assert report["prompts"]["p"]["accuracy"] == 1.0
    # Prompts of both tasks say different words.
    other = SoftPrompt(prompt.vectors, card | {"task": "glue/mrpc"})
    opened = evaluate.Opened({"p": prompt, "q": other}, files, "float32", 4, one)
    with pytest.raises(sp.UserError, match="name the labels of glue/mrpc differently"):
        evaluate.prepare(options, "validation", None, opened)


def test_cut_texts_are_counted(folder, run):
    arguments = [*options_of(folder, "one"), "--task.max_input_length", "4"]
    assert (
        sum(len(text.split()) > 4 for text in rows_of(folder)[0])
        == (json.loads(run(*arguments, "--json")[1])["cut_inputs"])
    )
    assert " inputs cut)" in run(*arguments)[1].splitlines()[0]


# ------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "FOLDER/nothing"], "There is no prompt in FOLDER/nothing"),
        (["--prompts", "FOLDER/one,FOLDER/one"], "twice"),
        (["--prompts", "FOLDER/one,"], "write it as FOLDER,FOLDER"),
        (["SOUND", "--train.steps", "5"], "There is no option --train.steps; beside those"),
        (["SOUND", "--task.stepz", "5"], "There is no option --task.stepz"),
        (
            ["--prompts", "FOLDER/one", "--task", "super_glue/bolq"],
            "did you mean super_glue/boolq?",
        ),
        (["SOUND", "--split", "test"], "has no 'test' split"),
        (["SOUND", "--examples", "0"], "--examples is 0"),
        (
            ["SOUND", "--task.evaluation", "likelihood"],
            "or leave out --task.evaluation if you gave it",
        ),
        (["SOUND", "--prompts", "FOLDER/one", "--ensemble"], "give at least two"),
        (["SOUND", "--output", "FOLDER/train.jsonl"], "is there already"),
        (["SOUND", "--output", "FOLDER/nothing/x"], "cannot be written"),
        (["SOUND", "--task.max-target-length", "60", "--task.evaluation", "generate"], "positions"),
        (["--prompts", "FOLDER/one"], "There is no task 'sentiment'"),
        (
            ["--prompts", "FOLDER/one", "--task", "x", "--task.mixture", "glue/mrpc", "glue/qqp"],
            "A mixture is evaluated task by task",
        ),
    ],
)
def test_mistakes(folder, run, monkeypatch, arguments, message):
    monkeypatch.setattr(ModelFiles, "load", lambda *_, **__: pytest.fail("the weights were read"))
    before = sorted(path.name for path in folder.iterdir())
    filled = []
    for each in arguments:
        own = options_of(folder) if each == "SOUND" else [each.replace("FOLDER", str(folder))]
        filled += own
    status, out, err = run(*filled)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert message in err.replace(str(folder), "FOLDER")
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in folder.iterdir()) == before


def cards(**prompts):
    return {
        name: SoftPrompt(jnp.zeros((2, 32)), {"task": "sentiment", **card})
        for name, card in prompts.items()
    }


def test_prompts_are_asked_as_they_were_trained():
    files = ["--task.train-file", "rows.jsonl"]
    trained = {"target_prefix": "so ", "task_prefix": True}
    options = task_options(None, files, cards(one=trained, two=trained))
    assert (options.name, options.target_prefix, options.task_prefix) == ("sentiment", "so ", True)
    options = task_options("other", ["--task.target-prefix", "", *files], cards(one=trained))
    assert (options.name, options.target_prefix, options.task_prefix) == ("other", "", True)
    # Older cards tell nothing of it.
    options = task_options(None, files, cards(one={}))
    assert (options.target_prefix, options.task_prefix) == ("", False)
    with pytest.raises(UserError, match=r"different --task\.target_prefix \(one 'so ', two ''\)"):
        task_options(None, files, cards(one=trained, two={"task_prefix": True}))
    with pytest.raises(UserError, match="have the task_prefix 'yes'; mend"):
        task_options(None, files, cards(one={"task_prefix": "yes"}))


def test_a_recipe_that_asks_otherwise_than_the_prompt_was_trained(tmp_path):
    recipe = str(write_recipe(RunConfig(), tmp_path))
    trained = cards(one={"target_prefix": "so "})
    with pytest.raises(UserError, match=r"trained with --task\.target_prefix 'so ', but"):
        task_options(None, ["--config", recipe], trained)
    for prefix in ("so ", ""):
        rest = ["--config", recipe, "--task.target-prefix", prefix]
        assert task_options(None, rest, trained).target_prefix == prefix


def test_a_task_of_a_recipes_mixture_may_be_named(tmp_path):
    config = RunConfig(task=TaskOptions(mixture=("glue/sst2", "glue/rte")))
    recipe = write_recipe(config, tmp_path)
    rest = ["--config", str(recipe)]
    assert task_options(None, rest, cards(one={})).mixture == ("glue/sst2", "glue/rte")
    named = task_options("glue/rte", rest, cards(one={}))
    assert (named.name, named.mixture) == ("glue/rte", ())


@pytest.mark.slow
def test_a_target_prefix_goes_with_the_prompt(tmp_path, run):
    """The run's own validation and what evaluate says of its prompt are of the same strings."""
    config = small_config(
        tmp_path,
        workdir=str(tmp_path / "run"),
        task__target_prefix="very ",
        train__steps=6,
        train__evaluate_every=6,
        task__max_target_length=6,
    )
    result = sp.train(config)
    assert result.best_prompt.card["labels"] == ["very negative", "very positive"]
    status, out, err = run(
        *("--prompts", config.workdir + "/best", "--json", "--batch-size", 8, "--devices", 1),
        *("--task.train-file", config.task.train_file),
        *("--task.validation-file", config.task.validation_file),
    )
    assert status == 0, err
    (metrics,) = json.loads(out)["prompts"].values()
    assert metrics["accuracy"] == pytest.approx(result.metrics["validation/accuracy"])
