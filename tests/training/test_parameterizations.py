"""Other parameterisations in training: only they move, they learn, stop and go on, and fold."""

import jax
import numpy as np
import pytest
from flax import nnx
from small_runs import changed
from trained_prompts import (
    STEPS,
    batch_of,
    bits,
    contents,
    make_models,
    prepared_of,
    run,
)

from softprompt_jax.config import RunConfig
from softprompt_jax.config_checks import check
from softprompt_jax.errors import UserError
from softprompt_jax.prompts import PromptedModel, SoftPrompt
from softprompt_jax.prompts.prompt_folders import (
    load_prompts,
    prompts_by_task,
    save_prompts,
    single_prompt,
)
from softprompt_jax.training import partition
from softprompt_jax.training.checkpointing import Checkpoints
from softprompt_jax.training.parallel import MeshLayout, PmapLayout

KINDS = ("residual_mlp", "mlp", "lstm", "multitask", "dept", "prefix")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("parameterizations"))


@pytest.fixture(scope="module")
def one_device():
    return PmapLayout(jax.devices()[:1])


# --- Each of them ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "family"), [*((kind, "llama") for kind in KINDS), ("dept", "t5"), ("prefix", "t5")]
)
def test_it_learns_and_nothing_else_moves(folder, one_device, kind, family):
    prepared = prepared_of(folder, kind, one_device, family, prompt__network_learning_rate=0.03)
    before = contents(prepared.state.trainable), contents(prepared.frozen)
    state, history = run(prepared, one_device, 0, STEPS)
    after = contents(state.trainable), contents(prepared.frozen)
    assert len(before[0]) >= 2
    assert all(path.startswith("prompt.") for path in before[0])
    assert all(before[0][path] != after[0][path] for path in before[0])
    assert len(before[1]) > 5
    assert before[1] == after[1]

    def last(name):
        return np.mean([metrics[name] for metrics in history[-10:]])

    assert last("loss") < 0.6 * history[0]["loss"]
    if kind == "multitask":  # one prompt could not tell the tasks apart
        assert last("token_accuracy") > 0.7

    # The optimizer knows of the trained parameters only: Adafactor has a number for each.
    count = sum(leaf.size for leaf in jax.tree.leaves(state.trainable))
    of_optimizer = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.size > 1)
    assert of_optimizer == count


@pytest.mark.parametrize(
    ("kind", "family"), [*((kind, "llama") for kind in KINDS), ("dept", "t5"), ("prefix", "t5")]
)
def test_it_goes_on_to_the_same_bits(folder, tmp_path, one_device, kind, family):
    prepared = prepared_of(folder, kind, one_device, family)
    whole, history = run(prepared, one_device, 0, 6)
    half, _ = run(prepared, one_device, 0, 3)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(half, 3, {})
    checkpoints.close()
    again = prepared_of(folder, kind, one_device, family)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    restored, _ = checkpoints.restore(again.state)
    checkpoints.close()
    assert bits(restored) == bits(half)
    resumed, rest = run(again, one_device, 3, 6, restored)
    assert bits(resumed) == bits(whole)
    assert rest == history[3:]


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("residual_mlp", "t5"),
        ("mlp", "llama"),
        ("lstm", "t5"),
        ("multitask", "t5"),
        ("multitask", "llama"),
    ],
)
def test_folded_it_is_a_plain_prompt(folder, tmp_path, one_device, kind, family):
    """What is kept gives the logits that were trained, also read again from its folder."""
    prepared = prepared_of(folder, kind, one_device, family)
    state, _ = run(prepared, one_device, 0, 3)
    fold = prepared.folding(one_device)
    folded = fold(state.trainable)
    assert list(contents(folded)) == ["prompt"]
    prompted = nnx.merge(fold.graphdef, folded, prepared.frozen)

    tasks = {"glue/one": ["a", "b"], "two": []}
    save_prompts(tmp_path / "best", prompted, {"model": "tiny"}, tasks)
    again = PromptedModel(prompted.model, load_prompts(tmp_path / "best"))
    assert np.asarray(again.vectors).tobytes() == np.asarray(prompted.vectors).tobytes()

    def logits(graphdef, trainable):
        model = nnx.merge(graphdef, trainable, prepared.frozen)
        return model.target_logits(batch_of())

    trained = jax.jit(logits, static_argnums=0)(prepared.graphdef, state.trainable)
    read = nnx.split(again, partition.trainable_filter("prompt_tuning"), ...)
    assert read[0] == fold.graphdef  # what was compiled for the folded prompt serves it
    plain = jax.jit(logits, static_argnums=0)(*read[:2])
    np.testing.assert_allclose(trained, plain, atol=2e-5, rtol=0)

    if kind == "multitask":
        prompts = prompts_by_task(tmp_path / "best")
        assert list(prompts) == ["glue/one", "two"]
        for number, prompt in enumerate(prompts.values()):
            assert prompt.card["task"] == list(prompts)[number]
            assert prompt.card["labels"] == tasks[prompt.card["task"]]
            own = partition.of_task(folded, number)
            np.testing.assert_array_equal(own["prompt"][...], prompt.vectors)
        assert single_prompt(tmp_path / "best") is None
        with pytest.raises(UserError, match=r"give one of the prompts in it: glue--one, two\."):
            SoftPrompt.load(tmp_path / "best")
        # The next best replaces it, but nothing that came beside it.
        again = ({"model": "tiny"}, {"glue/one": ["a", "b"], "two": []})
        save_prompts(tmp_path / "best", prompted, *again)
        for notes in ("notes.md", "two/notes.md"):
            (tmp_path / "best" / notes).touch()
            with pytest.raises(UserError, match="holds something else than"):
                save_prompts(tmp_path / "best", prompted, *again)
            (tmp_path / "best" / notes).unlink()
    else:
        assert single_prompt(tmp_path / "best") is not None
        assert prompts_by_task(tmp_path / "best") is None
        assert partition.of_task(folded, 1) is folded


def test_what_is_plain_is_not_folded(folder, one_device):
    prepared = prepared_of(folder, "plain", one_device)
    fold = prepared.folding(one_device)
    assert fold.graphdef is prepared.graphdef
    assert fold(prepared.state.trainable) is prepared.state.trainable
    assert partition.of_task(prepared.state.trainable, 1) is prepared.state.trainable


def test_damaged_prompts_of_tasks(tmp_path):
    for text in ("{", "[]", "{}", '{"a": "missing"}', '{"a": 1}'):
        (tmp_path / "prompts.json").write_text(text)
        with pytest.raises(UserError, match="prompt"):
            load_prompts(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "multitask", "dept", "prefix"])
def test_layouts_agree(folder, one_device, kind):
    """Loss, gradient norm and parameters, on eight devices or with micro-batches."""
    expected, by_one = run(prepared_of(folder, kind, one_device), one_device, 0, 3)
    for layout, changes in (
        (PmapLayout(jax.devices()), {}),
        (MeshLayout(jax.devices(), fsdp=4, tensor=2), {"train__accumulation": 2}),
    ):
        state, history = run(prepared_of(folder, kind, layout, **changes), layout, 0, 3)
        for ours, theirs in zip(history, by_one, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        kept = [
            jax.tree.leaves(prepared_of(folder, kind, where).folding(where)(trained.trainable))
            for where, trained in ((layout, state), (one_device, expected))
        ]
        # Adafactor divides a gradient by its size, also one that is little more than rounding, and
        # a factor that moves by that moves all that it multiplies: so relative to the values too.
        for ours, theirs in zip(*kept, strict=True):
            np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=2e-3, rtol=2e-3)


def test_networks_have_a_rate_of_their_own(folder, one_device):
    """The first step of Adafactor moves each parameter by its rate, times the gradient's sign."""

    def first_moves(kind="mlp", **changes):
        changes = {"optimizer__weight_decay": 0.0, **changes}
        prepared = prepared_of(folder, kind, one_device, **changes)
        state, _ = run(prepared, one_device, 0, 1)
        return {
            path[1:]: float(np.abs(np.asarray(new[...]) - np.asarray(old[...])).max())
            for (path, new), (_, old) in zip(
                nnx.to_flat_state(state.trainable),
                nnx.to_flat_state(prepared.state.trainable),
                strict=True,
            )
        }

    for rate, changes in (
        (0.001, {}),
        (0.02, {"prompt__network_learning_rate": 0.02}),
    ):
        moves = first_moves(**changes)
        assert moves.pop(("table",)) == pytest.approx(0.3, rel=1e-3)
        assert len(moves) == 6
        assert all(move == pytest.approx(rate, rel=2e-3) for move in moves.values())
    moves = first_moves("prefix")
    assert len(moves) == 2
    assert all(move == pytest.approx(0.01, rel=2e-3) for move in moves.values())
    clipped = first_moves(optimizer__max_gradient_norm=1e-3)
    assert clipped[("table",)] == pytest.approx(0.3, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt__parameterization": "mpl"}, "must be one of plain"),
        ({"prompt__hidden_size": 0}, "--prompt.hidden_size is 0"),
        ({"prompt__network_learning_rate": 0.0}, "--prompt.network_learning_rate is 0.0"),
        ({"prompt__wayward_gamma": -1.0}, "--prompt.wayward_gamma is -1.0"),
        ({"prompt__wayward_text": " "}, "--prompt.wayward_text is empty"),
        ({"prompt__parameterization": "multitask"}, "needs two tasks or more"),
        (
            {"prompt__parameterization": "mlp", "train__freeze": ("table",)},
            "leave it out with --prompt.parameterization mlp",
        ),
        (
            {"prompt__parameterization": "mlp", "train__method": "model_tuning"},
            "model_tuning has no prompt; leave out --prompt.parameterization",
        ),
        ({"prompt__rank": 0}, "--prompt.rank is 0"),
        ({"prompt__distillation_weight": -1.0}, "--prompt.distillation_weight is -1.0"),
        ({"prompt__teachers": ("a",)}, "--prompt.teachers are for"),
        (
            {
                "prompt__parameterization": "multitask",
                "prompt__teachers": ("a",),
                "task__mixture": ("a", "b"),
            },
            "one for each task of --task.mixture; give as many",
        ),
        (
            {"prompt__parameterization": "dept", "prompt__wayward_text": "a film"},
            "a dept prompt is more than vectors; leave it out",
        ),
        (
            {"prompt__parameterization": "prefix", "train__scan_layers": True},
            "leave out --train.scan_layers and --train.remat",
        ),
        (
            {"prompt__parameterization": "prefix", "train__remat": "full"},
            "leave out --train.scan_layers and --train.remat",
        ),
        (
            {"prompt__wayward_text": "a film", "train__method": "model_tuning"},
            "model_tuning has no prompt; leave out --prompt.wayward_text",
        ),
        (
            {
                "prompt__parameterization": "multitask",
                "task__mixture": ("a", "b"),
                "evaluate_on": ("c",),
            },
            "--evaluate_on scores one prompt",
        ),
    ],
)
def test_refused_before_any_work(changes, message):
    with pytest.raises(UserError, match=message):
        check(changed(RunConfig(), **changes))
