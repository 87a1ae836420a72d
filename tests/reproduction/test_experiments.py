"""Each experiment on tiny models: its rows against what its runs' folders hold."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from reproduction.tiny_preset import number_of_weights, tiny_preset

from softprompt_jax.config import RunConfig
from softprompt_jax.errors import UserError
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.reproduction import (
    claims,
    family,
    fig1,
    fig2,
    fig3a,
    fig3b,
    fig3c,
    parameterizations,
    sec7,
    tab1,
    tab2,
    tab3,
    tab5,
    tab6,
)
from softprompt_jax.reproduction.answers import design
from softprompt_jax.reproduction.catalogue import EXPERIMENTS
from softprompt_jax.reproduction.experiment import Context
from softprompt_jax.reproduction.grid import Cell, Outcome, make_cells
from softprompt_jax.reproduction.presets import PAPER, SMALL, Size
from softprompt_jax.reproduction.published import TABLE_5
from softprompt_jax.reproduction.results import Value
from softprompt_jax.tasks import get_task
from softprompt_jax.training.setup import initial_vectors, tasks_from_options


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shared, so that experiments share their runs."""
    return tmp_path_factory.mktemp("reproduction")


@pytest.fixture(scope="module")
def context(folder):
    preset = tiny_preset(folder)
    return Context(dataclasses.replace(preset, sizes=preset.sizes[:1]), folder / "out")


def test_the_papers_grids():
    lengths = [point.changes["prompt.length"] for point in fig3a.points(PAPER)]
    assert lengths == [1, 5, 20, 100, 150] * 5
    starts = {point.changes["prompt.init"] for point in fig3b.points(PAPER)}
    assert starts == {"random_uniform", "sampled_vocab", "class_labels"}
    xxl = [point for point in fig3c.points(PAPER) if point.coordinates["size"] == "XXL"]
    assert [point.changes["model.name"] for point in xxl] == [
        "google/t5-v1_1-xxl",
        "google/t5-v1_1-xxl",
        "google/t5-xxl-lm-adapt",
    ]
    said = [point.changes.get("task.target_prefix", "") for point in xxl]
    assert said == ["", "<extra_id_0> ", ""]


def test_a_sweep_from_runs_to_numbers(context, folder, monkeypatch):
    monkeypatch.setattr(fig3a, "LENGTHS", (1, 3))
    result = fig3a.EXPERIMENT.compute(context)
    assert [dict(row.coordinates) for row in result.rows] == [
        {"size": "narrow", fig3a.AXIS: 1},
        {"size": "narrow", fig3a.AXIS: 3},
    ]
    for row in result.rows:
        by_seed = {}
        for run in result.runs:
            if run["coordinates"] == dict(row.coordinates):
                told = json.loads((Path(run["folder"]) / "result.json").read_text())
                by_seed[str(run["seed"])] = 100 * told["metrics"]["test/accuracy"]
                assert run["versions"] == told["versions"]
                assert run["model_fingerprint"] == told["model_fingerprint"]
                assert run["config"]["prompt"]["length"] == row.coordinates[fig3a.AXIS]
        assert row.ours.by_seed == by_seed
        assert row.ours.mean == pytest.approx(np.mean(list(by_seed.values())))
        assert row.paper is None
    assert result.data == "sentiment, test"
    assert result.unit == "accuracy (%)"
    numbers = number_of_weights(folder / "t5")
    model = {"names": [str(folder / "t5")], "architecture": "T5", "parameters": numbers}
    assert result.models == {"narrow": model}
    assert "prints no numbers" in result.notes[0]
    json.dumps(result.runs)


def test_a_family_that_lacks_a_sizes_own_model_starts_nothing(folder, tmp_path):
    sizes = (Size("there", str(folder / "t5")), Size("gone", str(tmp_path / "gone" / "best")))
    context = Context(tiny_preset(folder, sizes=sizes), tmp_path / "out")
    with pytest.raises(UserError, match="gone/best"):
        fig3a.EXPERIMENT.compute(context)
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.slow
def test_figure_1(context, monkeypatch, folder):
    result = fig1.EXPERIMENT.compute(context)
    assert [row.coordinates["method"] for row in result.rows] == [
        "prompt tuning",
        "model tuning",
        "prompt design",
    ]
    methods = [run["config"]["train"]["method"] for run in result.runs]
    assert methods == ["prompt_tuning"] * 2 + ["model_tuning"] * 2
    # Nothing is designed twice.
    monkeypatch.setattr(fig1, "score_design", lambda *_: pytest.fail("designed again"))
    assert fig1.EXPERIMENT.compute(context) == result
    # The paper's has a mixture too, and published numbers where there are any.
    paper = fig1.points(PAPER)
    mixed = [point for point in paper if point.coordinates["method"] == fig1.MULTITASK]
    assert len(mixed) == 5
    assert mixed[0].tasks is not None
    assert len(mixed[0].tasks[0].mixture) == 9
    assert mixed[0].changes["train.method"] == "model_tuning"
    for cell in make_cells(PAPER, mixed[:1], folder):
        assert cell.config.train.batch_size == 2048
    others = [point for point in fig1.points(SMALL) if "smollm2" in point.changes["model.name"]]
    assert [point.coordinates["method"] for point in others] == ["prompt tuning"]


@pytest.mark.slow
def test_claims_compare_the_runs_of_the_figures(context, monkeypatch):
    monkeypatch.setattr(fig3a, "LENGTHS", (1, 3))
    monkeypatch.setattr(claims, "PAIRS", ((3, 1),))
    result = claims.EXPERIMENT.compute(context)
    scores = {}
    for run in result.runs:
        told = json.loads((Path(run["folder"]) / "result.json").read_text())
        at = run["coordinates"]
        place = at.get(fig1.AXIS) or at[fig3a.AXIS]
        scores[place, str(run["seed"])] = 100 * told["metrics"]["test/accuracy"]
    answers = {row.coordinates[claims.QUESTION]: row.ours for row in result.rows}
    for question, one, other in (
        (claims.OVER_MODEL_TUNING, "prompt tuning", "model tuning"),
        ("3 tokens less 1 (points)", 3, 1),
    ):
        differences = {seed: scores[one, seed] - scores[other, seed] for seed in ("0", "1")}
        assert answers[question].by_seed == pytest.approx(differences)
        assert answers[question].mean == pytest.approx(np.mean(list(differences.values())))
    test = list(tasks_from_options(context.preset.tasks[0])[0].split("test"))
    commonest = 100 * max(
        np.mean([row["target"] == label for row in test]) for label in ("positive", "negative")
    )
    ours = answers[claims.OVER_COMMONEST].by_seed
    assert ours == pytest.approx(
        {seed: scores["prompt tuning", seed] - commonest for seed in ("0", "1")}
    )
    assert answers[claims.SHORTEST].mean in (1, 3)


def test_the_shortest_prompt_within_a_point():
    assert claims.shortest({1: 60.0, 5: 79.0, 20: 80.0, 100: 79.9}) == 5
    assert claims.shortest({1: 60.0, 5: 78.9, 20: 80.0, 100: None}) == 20
    assert claims.shortest({1: None}) is None
    mine = Value.of({0: 3.0, 1: 5.0, 2: None})
    less = claims.difference(mine, Value.of({0: 1.0, 1: None, 2: 1.0}))
    assert less.by_seed == {"0": 2.0, "1": None, "2": None}


def test_a_designed_prompt_has_every_label_equally_often(context):
    options = context.preset.tasks[0]
    task = get_task(
        options.name, train_file=options.train_file, validation_file=options.validation_file
    )
    texts = [design(task, options, 4, seed) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    lines = texts[0].split("\n\n")
    assert lines.pop() == ""
    assert sorted(line.split()[-1] for line in lines) == ["negative"] * 2 + ["positive"] * 2
    assert all(line.split()[-2] in ("good", "great", "bad", "awful") for line in lines)


def test_table_3_and_figure_2(context, folder, monkeypatch):
    monkeypatch.setattr(tab3, "PROMPTS", 3)
    result = tab3.EXPERIMENT.compute(context)
    values = {row.coordinates[tab3.ANSWER]: row.ours.mean for row in result.rows}
    alone = [100 * run["metrics"]["test/accuracy"] for run in result.runs]
    assert len(alone) == 3
    assert values["mean of prompts"] == pytest.approx(np.mean(alone))
    assert values["best prompt"] == pytest.approx(max(alone))
    assert result.rows[0].ours.deviation == pytest.approx(np.std(alone, ddof=1))
    assert 0 <= values["majority vote"] <= 100

    mixed = fig2.EXPERIMENT.compute(context)
    numbers = {row.coordinates[fig2.QUANTITY]: row.ours.mean for row in mixed.rows}
    assert numbers["tasks"] == 3
    assert numbers["rows answered"] == 3 * 24
    assert numbers["answers that differ"] == 0
    assert numbers["largest difference of a log-likelihood (nats)"] < 1e-4
    assert numbers["bytes of the model"] == 4 * number_of_weights(folder / "t5")
    prompt = Path(result.runs[0]["folder"]) / "best" / "prompt.safetensors"
    assert numbers["bytes of a prompt"] == prompt.stat().st_size
    assert numbers[fig2.TUNED_COPIES] == 3 * 4 * number_of_weights(folder / "t5")


def test_mixing_up_prompts_would_be_seen(context, monkeypatch):
    """Figure 2's comparison fails where rows get each other's prompts in mixed batches."""
    monkeypatch.setattr(tab3, "PROMPTS", 2)
    cells, outcomes = context.run(tab3.points(context.preset))
    ((cell, folders),) = tab3.trained_prompts(cells, outcomes).values()
    jobs = [(name, cell) for name in folders]
    score = fig2.Predictor.score

    def swapped(self, texts, choices, prompts):
        if len(set(prompts)) > 1:
            prompts = [next(name for name in folders if name != prompt) for prompt in prompts]
        return score(self, texts, choices, prompts)

    assert fig2._ask(folders, jobs)["largest"] < 1e-4
    monkeypatch.setattr(fig2.Predictor, "score", swapped)
    assert fig2._ask(folders, jobs)["largest"] > 1e-3


def test_steps_to_the_mean():
    curves = {0: {10: 0.5, 20: 0.79, 30: 0.81}, 1: {10: 0.795, 20: 0.8}, 2: {10: 0.3, 20: 0.78}}
    # 0.99 of the mean of 0.81, 0.8 and 0.78 is 0.7887.
    assert tab5.steps_to_mean(curves) == {0: 20, 1: 10, 2: None}
    assert tab5.steps_to_mean({}) == {}


def test_the_papers_times():
    assert TABLE_5["Large", 1] == (197, 130)
    assert TABLE_5["XXL", 100] == (3 * 3600 + 51 * 60 + 15, 45 * 60 + 53)
    assert len(TABLE_5) == 15


def test_table_5(context, monkeypatch):
    monkeypatch.setattr(tab5, "LENGTHS", (3,))
    steps, seconds = tab5.EXPERIMENT.compute(context).rows
    runs = tab5.EXPERIMENT.compute(context).runs
    curves = {}
    for run in runs:
        lines = (Path(run["folder"]) / "metrics.jsonl").read_text().splitlines()
        told = [json.loads(line) for line in lines]
        curves[run["seed"]] = {
            line["step"]: line["validation/accuracy"]
            for line in told
            if "validation/accuracy" in line
        }
        assert list(curves[run["seed"]]) == [2, 4]
    expected = tab5.steps_to_mean(curves)
    assert steps.ours.by_seed == {str(seed): step for seed, step in expected.items()}
    for run in runs:
        step, rate = expected[run["seed"]], run["examples_per_second"]
        assert seconds.ours.by_seed[str(run["seed"])] == (
            None if step is None or rate is None else pytest.approx(step * 8 / rate)
        )


@pytest.mark.slow
def test_section_7(context, folder):
    one_seed = dataclasses.replace(context.preset, seeds=(0,))
    result = sec7.EXPERIMENT.compute(dataclasses.replace(context, preset=one_seed))
    values = {tuple(row.coordinates.values()): row.ours for row in result.rows}
    assert {start for start, _ in values} == set(fig3b.INITIALISERS)
    own = {start for start, measure in values if measure == sec7.OWN}
    assert own == {"class labels"}
    for run in result.runs:
        vectors = np.asarray(SoftPrompt.load(Path(run["folder"]) / "best").vectors)
        assert vectors.shape == (4, 32)
    # Hardly trained, the labels and the sampled tokens are still where they started.
    assert values["class labels", sec7.NEAR].mean > 0
    assert (
        values["sampled vocabulary", sec7.NEAREST].mean
        > values["random uniform", sec7.NEAREST].mean
    )
    assert sum("class labels, sentiment, seed 0: " in note for note in result.notes) == 1
    assert result.over == ""  # one task: the seeds, as everywhere
    two_tasks = tiny_preset(folder, tasks=2, seeds=(0,), sizes=one_seed.sizes)
    result = sec7.EXPERIMENT.compute(dataclasses.replace(context, preset=two_tasks))
    assert result.over == "2 runs (2 tasks x 1 seeds)"


@pytest.mark.slow
def test_table_6(context, monkeypatch):
    names = [tuple(point.coordinates.values()) for point in tab6.points(PAPER)]
    assert ("learning rate", 0.3) in names
    assert ("batch size", 512) in names
    assert ("steps", 10_000) in names
    assert ("warm-up steps", 2_000) in names
    one_seed = dataclasses.replace(context.preset, seeds=(0,))
    monkeypatch.setattr(tab6, "points", lambda preset: tab6_points(preset)[:2])
    result = tab6.EXPERIMENT.compute(dataclasses.replace(context, preset=one_seed))
    rates = [run["config"]["optimizer"]["learning_rate"] for run in result.runs]
    assert rates == [0.001, 0.01]


tab6_points = tab6.points


@pytest.mark.slow
def test_parameterizations(context, monkeypatch):
    kinds = ("plain", "residual_mlp", "dept", "prefix")
    monkeypatch.setattr(parameterizations, "KINDS", kinds)
    result = parameterizations.EXPERIMENT.compute(context)
    rows = {
        (row.coordinates[parameterizations.AXIS], row.coordinates["measure"]): row.ours
        for row in result.rows
    }
    assert {kind for kind, _ in rows} == {*kinds}
    for (_, measure), value in rows.items():
        assert len(value.by_seed) == 2, measure
        assert value.mean > 0, measure
    # Folded, a prompt is a prompt; the others are more.
    plain, folded, *others = (rows[kind, "stored kB"].mean for kind in kinds)
    assert plain == folded < min(others)
    assert {run["config"]["prompt"]["parameterization"] for run in result.runs} == {*kinds}


@pytest.mark.slow
def test_the_family_task_by_task(context, monkeypatch, tmp_path):
    one_size = dataclasses.replace(context.preset, sizes=context.preset.sizes[:1])
    monkeypatch.chdir(tmp_path)  # no bbc/ here
    result = family.EXPERIMENT.compute(dataclasses.replace(context, preset=one_size))
    (task,) = one_size.tasks
    rows = {row.coordinates["method"]: row.ours for row in result.rows}
    trained = ["prompt tuning, the paper's loss", "prompt tuning", "model tuning"]
    assert list(rows) == ["commonest label", "untrained prompt", *trained]
    test_rows = [json.loads(line) for line in Path(task.test_file or "").read_text().splitlines()]
    labels = [row["target"] for row in test_rows]
    share = max(labels.count(label) for label in set(labels)) / len(labels)
    assert rows["commonest label"].mean == pytest.approx(100 * share)
    # One step of nearly no size: what is scored is the prompt's start.
    untrained = [run for run in result.runs if run["config"]["train"]["steps"] == 1]
    assert len(untrained) == 2
    for run in untrained:
        prompt = SoftPrompt.load(f"{run['folder']}/best").vectors
        start = initial_vectors_of(run["config"])
        assert np.abs(prompt - start).max() < 1e-9
    assert "BBC topics are left out" in result.notes[1]


def test_the_share_that_the_familys_note_tells():
    task = get_task("sms_spam")
    labels = [
        reference.answers[0]
        for row in task.split("test")
        for _, reference in task.evaluation_rows(row)
    ]
    assert f"{100 * labels.count('normal') / len(labels):.0f} % of its test" in family.SMS_SPAM


def initial_vectors_of(saved: dict) -> np.ndarray:
    config = RunConfig.from_json(json.dumps(saved))
    model = load_model(config.model.name)
    return np.asarray(initial_vectors(config, model, tasks_from_options(config.task)))


@pytest.mark.parametrize("table", [tab1, tab2])
def test_tables_of_transfer_need_the_papers_data(context, table):
    with pytest.raises(UserError, match="use --preset paper"):
        table.EXPERIMENT.compute(context)


def test_table_2_compares_by_method(tmp_path, monkeypatch):
    """With made-up outcomes: the data is not at hand."""

    def run(self, points):
        cells, outcomes = [], []
        for point in points:
            tuned = point.changes.get("train.method") == "model_tuning"
            config = dataclasses.replace(
                PAPER.recipe, task=point.tasks[0], evaluate_on=point.changes["evaluate_on"]
            )
            for seed in PAPER.seeds:
                cells.append(Cell(point.coordinates, dataclasses.replace(config, seed=seed)))
                (other,) = config.evaluate_on
                value = (0.7 if tuned else 0.8) + seed / 100
                metrics = {f"evaluate_on/{other}/{name}": value for name in ("accuracy", "f1")}
                outcomes.append(Outcome(metrics, {}))
        return cells, outcomes

    monkeypatch.setattr(Context, "run", run)
    rows = tab2.EXPERIMENT.compute(Context(PAPER, tmp_path)).rows
    assert len(rows) == 8
    by_place = {tuple(row.coordinates.values()): row for row in rows}
    prompt = by_place["glue/qqp", "glue/mrpc, accuracy", "prompt tuning"]
    assert prompt.ours.mean == pytest.approx(81)
    assert prompt.paper is not None
    assert (prompt.paper.value, prompt.paper.deviation) == (76.3, 0.1)
    tuned = by_place["glue/mrpc", "glue/qqp, f1", "model tuning"]
    assert tuned.ours.mean == pytest.approx(71)
    assert tuned.difference == pytest.approx(71 - 70.9)


def test_every_experiment_is_named_after_its_file():
    for name, experiment in EXPERIMENTS.items():
        assert experiment.compute.__module__ in (
            f"softprompt_jax.reproduction.{name}",
            "softprompt_jax.reproduction.experiment",
            "softprompt_jax.reproduction.data_tables",  # tables 7 to 16
        )
    assert list(EXPERIMENTS)[:4] == ["fig1", "fig2", "fig3a", "fig3b"]
