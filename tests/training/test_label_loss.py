"""The loss among a task's labels: against scikit-learn, and by whole runs."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from lively_models import make_lively
from small_runs import (
    ONE_LAYER,
    changed,
    checkpoint_bits,
    metrics_lines,
    sentiment_rows,
    small_config,
)
from trained_prompts import ROWS, batch_of, config_of, make_models, prompted_of

from softprompt_jax.config_checks import check
from softprompt_jax.data.preparation import prepare_data
from softprompt_jax.errors import UserError
from softprompt_jax.inference.scoring import target_log_likelihoods
from softprompt_jax.models import load_model
from softprompt_jax.models.blocks import set_remat
from softprompt_jax.models.stacking import stack_blocks
from softprompt_jax.pretraining.config import PretrainConfig
from softprompt_jax.prompts import PromptedModel
from softprompt_jax.training.objectives import Objectives, label_sets, label_sums
from softprompt_jax.training.parallel import MeshLayout, PmapLayout
from softprompt_jax.training.setup import place, tasks_from_options
from softprompt_jax.training.tuning import train

# Of two tasks: of one token and of several, one beginning another, and not equally many.
LABELS = (("yes", "no", "yes yes"), ("the good film", "awful"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module", params=["llama", "t5"])
def family(request):
    return request.param


def labelled(labels, rows=ROWS, seed=0, length=6):
    """Random inputs of two tasks and their right labels; the last row is one of padding.

    Returns the batch, and for each row its task and the place of its label.
    """
    batch = batch_of(seed)
    generator = np.random.default_rng(seed)
    task = batch["prompt_ids"]
    which = np.asarray([generator.integers(len(LABELS[t])) for t in task])
    targets = np.zeros((rows, length), np.int32)
    mask = np.zeros((rows, length), bool)
    for row in range(rows - 1):
        ids = labels.targets[task[row], which[row]]
        ids = ids[ids >= 0]
        targets[row, : len(ids)], mask[row, : len(ids)] = ids, True
    return {**batch, "targets": targets, "target_mask": mask}, task, which


def sets_of(folder, family):
    model = load_model(str(folder / family))
    return label_sets(LABELS, model.tokenizer, model.config)


def test_labels_as_tokens(folder, family):
    model = load_model(str(folder / family))
    labels = label_sets(LABELS, model.tokenizer, model.config)
    eos = model.config.eos_ids[0]
    assert labels.ids.shape == labels.mask.shape == (2, 3, 3)
    # "yes" begins "yes yes", so its end tells them apart; no label of the other begins another.
    assert labels.mask.sum(-1).tolist() == [[2, 2, 3], [3, 1, 0]]
    for task, words in enumerate(LABELS):
        for place_, word in enumerate(words):
            ids = model.tokenizer(word, add_special_tokens=False)["input_ids"]
            told = labels.targets[task, place_]
            assert told[: len(ids) + 1].tolist() == [*ids, eos]
            assert set(told[len(ids) + 1 :].tolist()) <= {-1}
    assert set(labels.targets[1, 2].tolist()) == {-2}


@pytest.mark.parametrize("length", [4, 6], ids=["as long as the longest label", "longer"])
def test_the_sums(folder, length):
    labels = sets_of(folder, "t5")
    batch, task, which = labelled(labels, length=length)
    scores = np.random.default_rng(1).normal(0, 3, (ROWS, 3)).astype(np.float32)
    loss, sums = label_sums(jnp.asarray(scores), batch, labels)
    surprise, correct = 0.0, 0
    for t, words in enumerate(LABELS):
        own = np.flatnonzero(task[:-1] == t)
        probabilities = scipy.special.softmax(scores[own, : len(words)].astype(float), axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rows of float32 numbers do not sum to 1 exactly
            surprise += sklearn.metrics.log_loss(
                which[own], probabilities, labels=range(len(words)), normalize=False
            )
        correct += sklearn.metrics.accuracy_score(
            which[own], probabilities.argmax(1), normalize=False
        )
    assert float(loss) == float(sums["loss"]) == pytest.approx(surprise, rel=1e-5)
    assert float(sums["examples"]) == ROWS - 1
    assert float(sums["correct"]) == correct
    assert 0 < correct < ROWS - 1


def test_other_targets_do_not_count(folder):
    labels = sets_of(folder, "t5")
    batch, _, _ = labelled(labels)
    batch["targets"][:3] = 90
    scores = jnp.zeros((ROWS, 3))
    assert float(label_sums(scores, batch, labels)[1]["examples"]) == ROWS - 4


@pytest.mark.parametrize("kind", ["plain", "multitask"])
def test_the_objective_is_of_whole_labels(folder, family, kind):
    """Each label's likelihood by itself, as that of a target of the row's own prompt."""
    labels = sets_of(folder, family)
    batch, task, which = labelled(labels)
    prompted = prompted_of(folder, config_of(folder, kind, family), family)
    _, sums = Objectives(labels=labels).sums(prompted, batch)
    scores = np.full((ROWS, 3), -np.inf)
    vectors = jnp.broadcast_to(prompted.vectors, (2, *prompted.vectors.shape[-2:]))
    for t, words in enumerate(LABELS):
        for place_ in range(len(words)):
            own = {
                **batch,
                "targets": np.tile(labels.ids[t, place_], (ROWS, 1)),
                "target_mask": np.tile(labels.mask[t, place_], (ROWS, 1)),
            }
            told = target_log_likelihoods(prompted.model, own, vectors[t])
            scores[task == t, place_] = np.asarray(told)[task == t]
    log_probs = scipy.special.log_softmax(scores, axis=1)[np.arange(ROWS), which][:-1]
    assert float(sums["loss"]) == pytest.approx(-log_probs.sum(), rel=1e-4)


def three_steps(folder, family, layout, *, kind="plain", stacked=False, **changes):
    config = config_of(folder, kind, family, train__loss="labels", **changes)
    prompted = prompted_of(folder, config, family)
    set_remat(prompted.model, config.train.remat if stacked else "none")
    if stacked:
        prompted = PromptedModel(stack_blocks(prompted.model), prompted.prompt[...])
    labels = sets_of(folder, family)
    prepared = place(config, prompted, layout, Objectives(labels=labels))
    state, history = prepared.state, []
    for i in range(3):
        rows = layout.place_rows(labelled(labels, seed=i)[0], ROWS)
        state, metrics = prepared.train_step(state, prepared.frozen, rows)
        history.append({name: float(value) for name, value in metrics.items()})
    return history


@pytest.fixture(scope="module")
def on_one_device(folder):
    found = {}

    def get(family, kind):
        if (family, kind) not in found:
            one = PmapLayout(jax.devices()[:1])
            found[family, kind] = three_steps(folder, family, one, kind=kind)
        return found[family, kind]

    return get


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        (lambda: PmapLayout(jax.devices()), {"train__accumulation": 2}),
        (lambda: PmapLayout(jax.devices()[:2]), {"kind": "multitask"}),
        (lambda: MeshLayout(jax.devices(), fsdp=8), {}),
        (lambda: MeshLayout(jax.devices(), data=2, tensor=4), {"kind": "multitask"}),
        (lambda: MeshLayout(jax.devices(), fsdp=8), {"stacked": True, "train__remat": "full"}),
    ],
    ids=["pmap", "pmap of prompts", "fsdp", "tensor", "stacked"],
)
def test_every_layout_is_one_device(folder, family, on_one_device, layout, options):
    history = three_steps(folder, family, layout(), **options)
    expected = on_one_device(family, options.get("kind", "plain"))
    for ours, theirs in zip(history, expected, strict=True):
        assert ours["finite"] == 1
        assert ours["examples"] == ROWS - 1
        for name in ("loss", "label_accuracy", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=5e-4)


@pytest.fixture(scope="module")
def small(tmp_path_factory, family):
    """A run of a model whose prompt has a say in what follows."""
    folder = tmp_path_factory.mktemp(f"label-run-{family}")
    if family == "llama":  # the other one's first weights let a prompt have a say too
        make_lively(folder / family, family, **ONE_LAYER[family])
    return small_config(
        folder,
        family,
        train__loss="labels",
        train__steps=60,
        train__evaluate_every=60,
        task__cache_dir=str(folder / "tokens"),
    )


def test_a_run(small):
    result = train(small)
    lines = [line for line in metrics_lines(small.workdir) if "train/loss" in line]
    assert {"train/label_accuracy", "train/examples"} <= lines[0].keys()
    assert not {"train/token_accuracy", "train/tokens"} & lines[0].keys()
    # Two labels: half of them right and ln 2 nats without learning.
    assert np.mean([line["train/loss"] for line in lines[-10:]]) < 0.5
    assert result.metrics["validation/accuracy"] > 0.8


def test_it_goes_on_to_the_same_bits(small, tmp_path):
    whole = changed(small, train__steps=6, workdir=str(tmp_path / "whole"))
    part = changed(small, train__steps=3, workdir=str(tmp_path / "part"))
    train(whole)
    train(part)
    train(changed(part, train__steps=6))
    bits = [checkpoint_bits(tmp_path / name, 6) for name in ("whole", "part")]
    assert bits[0] == bits[1] != {}
    assert metrics_lines(whole.workdir)[-1] == metrics_lines(part.workdir)[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__dropout_rate": 0.1}, "--model.dropout_rate is of the loss over the vocabulary"),
        ({"train__z_loss": 0.1}, "--train.z_loss is of the loss over the vocabulary"),
        ({"task__evaluation": "generate"}, "sentiment is not judged by its likeliest label"),
        ({"task__max_target_length": 1}, "raise max_target_length"),
    ],
)
def test_what_it_refuses(small, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(changed(small, workdir=str(tmp_path / "run"), **changes))
    assert not list(tmp_path.glob("run/metrics.jsonl"))


def test_rows_of_other_targets_are_refused(small):
    (task,) = tasks_from_options(small.task)
    model = load_model(small.model.name)
    task = dataclasses.replace(task, labels=("positive", "neutral"))
    others = sum(row["target"] == "negative" for row in sentiment_rows(24, 0))
    with pytest.raises(UserError, match=f"{others} training rows whose target is none of its"):
        prepare_data(small, [task], [], model.tokenizer, model.config)


def test_plain_text_has_no_labels():
    config = PretrainConfig(from_scratch=True)
    with pytest.raises(UserError, match=r"Plain text has no labels"):
        check(config.replaced({"train.loss": "labels", "optimizer.learning_rate": 0.1}))
