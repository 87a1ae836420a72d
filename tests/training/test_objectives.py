"""What a prompt is drawn to beside the loss: a text's embeddings, or its teachers' answers."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from small_runs import changed, prompted_tiny
from trained_prompts import (
    ROWS,
    STEPS,
    batch_of,
    config_of,
    make_models,
    prepared_of,
    prompted_of,
    run,
)

from softprompt_jax.errors import UserError
from softprompt_jax.exchange import export_npy
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.prompts.prompted_model import target_logits
from softprompt_jax.training import partition
from softprompt_jax.training.objectives import Distillation, Objectives, Wayward, divergence
from softprompt_jax.training.parallel import MeshLayout, PmapLayout
from softprompt_jax.training.setup import load_teachers, prepare_step, wayward_objective
from softprompt_jax.training.step import init_state, make_train_step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("objectives"))


@pytest.fixture(scope="module")
def one_device():
    return PmapLayout(jax.devices()[:1])


# --- Waywardness -----------------------------------------------------------------------------


def plain_step(folder, wayward, layout, accumulation=1):
    """Of plain gradient descent with rate 1: the prompt moves by its gradient."""
    model = prompted_tiny(folder / "llama", "llama")
    is_trained = partition.trainable_filter("prompt_tuning")
    graphdef, trainable, frozen = partition.split(model, is_trained)
    optimizer = optax.sgd(1.0)
    step = make_train_step(
        graphdef,
        optimizer,
        accumulation=accumulation,
        objectives=Objectives(wayward=wayward),
        axis=layout.axis,
    )
    start = np.asarray(model.vectors)
    state = layout.place_state(jax.tree.map(np.array, init_state(trainable, optimizer, 0)))
    rows = layout.place_rows(batch_of(), ROWS)
    state, metrics = layout.step(step, state)(state, layout.place_frozen(frozen), rows)
    return start, np.asarray(state.trainable["prompt"][...]), metrics


def test_the_wayward_objective(folder, one_device):
    """Its gradient, by hand, comes on top of the loss's, once, whatever the layout."""
    target = np.random.default_rng(1).normal(size=(4, 32)).astype(np.float32)
    start, without, metrics = plain_step(folder, None, one_device)
    assert "wayward_distance" not in metrics
    gamma = 0.7
    expected = without - gamma * 2 * (start - target) / len(start)
    for layout, accumulation in (
        (one_device, 1),
        (PmapLayout(jax.devices()), 2),
        (MeshLayout(jax.devices(), fsdp=8), 1),
    ):
        wayward = Wayward(target, gamma)
        _, drawn, told = plain_step(folder, wayward, layout, accumulation)
        np.testing.assert_allclose(drawn, expected, atol=2e-6)
        distance = np.mean(np.sum(np.square(start - target), axis=1))
        assert float(told["wayward_distance"]) == pytest.approx(distance, rel=1e-6)
        assert float(told["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-6)
        norm = np.linalg.norm(start - expected)
        assert float(told["grad_norm"]) == pytest.approx(norm, rel=1e-5)


def test_a_prompt_is_drawn_to_its_text(folder, one_device):
    """By the run's own options, from the text's embeddings to a distance that gamma decides."""
    model = load_model(str(folder / "llama"))
    distances = {}
    for gamma in (0.0, 10.0):
        config = config_of(
            folder, "plain", prompt__wayward_text="a good film", prompt__wayward_gamma=gamma
        )
        prepared = prepare_step(config, model, (), one_device)
        state, history = run(prepared, one_device, 0, STEPS)
        distances[gamma] = history[-1]["wayward_distance"]
        target = wayward_objective(config, model, one_device).target
        ids = model.tokenizer("a good film", add_special_tokens=False)["input_ids"]
        embedded = np.asarray(model.module.embedding[...])[np.resize(ids, 4)]
        np.testing.assert_array_equal(target, embedded)
        moved = np.asarray(state.trainable["prompt"][...]) - target
        by_hand = np.mean(np.sum(np.square(moved), axis=1))
        assert by_hand != pytest.approx(0)
    assert distances[10.0] < 0.2 * distances[0.0]


def test_every_tasks_prompt_is_drawn(folder, one_device):
    drawn = Objectives(wayward=Wayward(np.zeros((4, 32), np.float32), 10.0))
    prepared = prepared_of(folder, "multitask", one_device, objectives=drawn)
    _, history = run(prepared, one_device, 0, STEPS)
    assert history[-1]["wayward_distance"] < 0.5 * history[0]["wayward_distance"]


# --- Distillation ----------------------------------------------------------------------------

TEACHERS = np.random.default_rng(2).normal(0, 0.7, (2, 6, 32)).astype(np.float32)


def test_the_divergence():
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(0, 2, (2, 3, 4, 9)).astype(np.float32)
    mask = np.arange(4)[None] < np.asarray([[4], [1], [0]])

    def probabilities(logits):
        powers = np.exp(logits.astype(np.float64))
        return powers / powers.sum(-1, keepdims=True)

    by_token = scipy.special.rel_entr(*map(probabilities, (teacher, student))).sum(-1)
    told = divergence(jnp.asarray(student), jnp.asarray(teacher), {"target_mask": mask})
    assert float(told) == pytest.approx(by_token[mask].sum(), rel=1e-5)
    same = divergence(jnp.asarray(student), jnp.asarray(student), {"target_mask": mask})
    assert float(same) == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_multitask_prompt_is_distilled(folder, one_device, family):
    """Each row from its own task's teacher, until the prompts answer as the teachers do."""
    taught = Objectives(distillation=Distillation(TEACHERS, 50.0))
    prepared = prepared_of(folder, "multitask", one_device, family, taught)
    _, history = run(prepared, one_device, 0, STEPS)
    _, alone = run(prepared_of(folder, "multitask", one_device, family), one_device, 0, 1)
    assert history[0]["loss"] == pytest.approx(alone[0]["loss"], abs=1e-5)
    assert "distillation" not in alone[0]

    prompted = prompted_of(folder, config_of(folder, "multitask", family), family)
    batch = batch_of()
    student = prompted.target_logits(batch)
    expected = sum(
        float(divergence(student, target_logits(prompted.model, batch, teacher), own))
        for task, teacher in enumerate(jnp.asarray(TEACHERS))
        for own in [{"target_mask": batch["target_mask"] & (batch["prompt_ids"] == task)[:, None]}]
    )
    first, last = history[0]["distillation"], history[-1]["distillation"]
    assert first == pytest.approx(expected / batch["target_mask"].sum(), rel=1e-4)
    assert last < 0.6 * first


@pytest.mark.slow
def test_layouts_agree_on_distillation(folder, one_device):
    options = {"objectives": Objectives(distillation=Distillation(TEACHERS, 0.9))}
    expected = run(prepared_of(folder, "multitask", one_device, **options), one_device, 0, 3)[1]
    for layout, changes in (
        (PmapLayout(jax.devices()), {}),
        (MeshLayout(jax.devices(), fsdp=8), {"train__accumulation": 2}),
    ):
        prepared = prepared_of(folder, "multitask", layout, **options, **changes)
        history = run(prepared, layout, 0, 3)[1]
        for ours, theirs in zip(history, expected, strict=True):
            for name in ("loss", "distillation", "grad_norm"):
                assert ours[name] == pytest.approx(theirs[name], rel=2e-4)


def test_teachers_are_read(folder, tmp_path):
    config = config_of(folder, "multitask")
    assert load_teachers(config, SimpleNamespace(d_model=32)) is None
    names = []
    for i, vectors in enumerate(TEACHERS):
        names.append(str(tmp_path / str(i)))
        SoftPrompt(jnp.asarray(vectors)).save(names[-1])
    options = {"prompt__teachers": tuple(names), "prompt__distillation_weight": 0.5}
    config = changed(config, **options)
    teachers, weight = load_teachers(config, SimpleNamespace(d_model=32))
    np.testing.assert_array_equal(teachers, TEACHERS)
    assert weight == 0.5
    with pytest.raises(UserError, match="is 32 wide"):
        load_teachers(config, SimpleNamespace(d_model=64))
    export_npy(SoftPrompt(jnp.asarray(TEACHERS[1])), tmp_path / "one.npy")  # or any other form
    other = changed(config, prompt__teachers=(names[0], str(tmp_path / "one.npy")))
    read = load_teachers(other, SimpleNamespace(d_model=32))
    np.testing.assert_array_equal(read.teachers, TEACHERS)
    SoftPrompt(jnp.asarray(TEACHERS[1, :5])).save(names[1])
    with pytest.raises(UserError, match="has 5 positions, but the first has 6"):
        load_teachers(config, SimpleNamespace(d_model=32))
    with pytest.raises(UserError, match="There is no prompt"):
        load_teachers(changed(config, prompt__teachers=("no", "where")), SimpleNamespace(d_model=1))
