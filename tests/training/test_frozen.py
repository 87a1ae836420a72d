"""Frozen means frozen: no bits change, no gradient is computed, no optimizer state is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_runs import changed, prompted_tiny, random_batch
from tiny_models import make_tiny

from softprompt_jax.config import OptimizerOptions, RunConfig, TrainOptions
from softprompt_jax.errors import UserError
from softprompt_jax.models import load_model, resolve_model
from softprompt_jax.pretraining.config import PretrainConfig
from softprompt_jax.prompts import Prompt, PromptedModel
from softprompt_jax.prompts.prompted_model import target_logits
from softprompt_jax.training import partition
from softprompt_jax.training.optimizers import make_optimizer
from softprompt_jax.training.parallel import PmapLayout
from softprompt_jax.training.setup import check_freeze, take_apart
from softprompt_jax.training.step import init_state, make_train_step


def take_steps(model, method="prompt_tuning", freeze=(), steps=5):
    """Steps on random batches; what was trained and frozen before and after, and the state."""
    is_trained = partition.trainable_filter(method, freeze)
    graphdef, trainable, frozen = partition.split(model, is_trained)
    optimizer = partition.masked(make_optimizer(OptimizerOptions(), method, steps), is_trained)
    state = init_state(trainable, optimizer, 0)
    before = contents(trainable), contents(frozen)
    step = jax.jit(make_train_step(graphdef, optimizer))
    for i in range(steps):
        state, metrics = step(state, frozen, random_batch(4, seed=i))
        assert metrics["finite"] == 1
    return before, (contents(state.trainable), contents(frozen)), state


def contents(state):
    """Bytes of each leaf by dotted path."""
    return {
        ".".join(map(str, path)): np.asarray(leaf[...]).tobytes()
        for path, leaf in nnx.to_flat_state(state)
    }


def moved(before, after):
    assert before.keys() == after.keys()
    return {path for path in before if before[path] != after[path]}


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_prompt_tuning_moves_the_prompt_alone(tmp_path, family):
    model = prompted_tiny(tmp_path / family, family)
    before, after, state = take_steps(model)
    assert moved(before[0], after[0]) == {"prompt"}
    assert len(after[1]) > 5
    assert moved(before[1], after[1]) == set()
    # Adafactor keeps one number for each of the prompt's, and counters.
    sizes = [leaf.size for leaf in jax.tree.leaves(state.opt_state)]
    assert sum(size for size in sizes if size > 1) == model.vectors.size


def test_model_tuning_moves_everything(tmp_path):
    before, after, _ = take_steps(prompted_tiny(tmp_path / "t5", "t5", None), "model_tuning")
    assert before[1] == {}
    assert moved(before[0], after[0]) == set(before[0])


def test_freeze_patterns(tmp_path):
    model = prompted_tiny(tmp_path / "t5", "t5", None)
    freeze = (r"encoder", r"embedding")
    before, after, state = take_steps(model, "model_tuning", freeze)
    assert all("encoder" in path or "embedding" in path for path in before[1])
    assert not any("encoder" in path or "embedding" in path for path in before[0])
    assert before[1]
    assert moved(before[0], after[0]) == set(before[0])
    assert moved(before[1], after[1]) == set()
    assert {"encoder", "embedding"}.isdisjoint(
        part
        for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)
        for part in jax.tree_util.keystr(path, simple=True, separator=".").split(".")
    )


def test_freezing_everything_is_refused(tmp_path):
    model = prompted_tiny(tmp_path / "t5", "t5")
    with pytest.raises(UserError, match="nothing left to train"):
        partition.split(model, partition.trainable_filter("prompt_tuning", ("prompt",)))
    with pytest.raises(UserError, match="nothing left to train"):
        partition.check_freeze(model, "prompt_tuning", ("^prompt$",))
    with pytest.raises(UserError, match="encodr matches nothing that model_tuning trains"):
        partition.check_freeze(model, "model_tuning", ("decoder", "encodr"))
    partition.check_freeze(model, "model_tuning", ("decoder",))


PRETRAINING = PretrainConfig(train=TrainOptions(method="model_tuning"))
TUNING = RunConfig(train=TrainOptions(method="model_tuning"))


@pytest.mark.parametrize("config", [TUNING, PRETRAINING])
def test_patterns_are_those_of_the_layers_as_they_run(tmp_path, config):
    """Stacked, layers have no numbers: a pattern with one would freeze nothing, unsaid."""
    model_config = resolve_model(str(make_tiny(tmp_path / "t5", "t5"))).config
    first_block = changed(config, train__freeze=(r"encoder\.blocks\.0\.",))
    check_freeze(first_block, model_config)
    for stacked in ({"train__remat": "full"}, {"train__scan_layers": True}):
        with pytest.raises(UserError, match=r"matches nothing .* --train\.scan_layers False gives"):
            check_freeze(changed(first_block, **stacked), model_config)
        check_freeze(changed(config, train__freeze=("encoder",), **stacked), model_config)
    apart = changed(first_block, train__remat="full", train__scan_layers=False)
    check_freeze(apart, model_config)
    with pytest.raises(UserError, match=r"encodr matches nothing .*; mend the pattern\.$"):
        check_freeze(changed(config, train__freeze=("encodr",)), model_config)


def test_a_tied_head_cannot_be_frozen(tmp_path):
    model = load_model(str(make_tiny(tmp_path / "llama", "llama", tie_word_embeddings=True)))
    config = changed(TUNING, train__freeze=("head",))
    check_freeze(config, model.config)  # the weights may have a head of their own
    with pytest.raises(UserError, match="head matches nothing that model_tuning trains"):
        take_apart(config, PromptedModel(model.module, None), PmapLayout(jax.devices()[:1]))


class TwoPrompts(nnx.Module):
    """A model with two prompts, one behind the other."""

    def __init__(self, model, first, second):
        self.model, self.first, self.second = model, Prompt(first), Prompt(second)

    def target_logits(self, batch, dropout=None):
        prompt = jnp.concatenate([self.first[...], self.second[...]])
        return target_logits(self.model, batch, prompt, dropout)


def test_a_filter_freezes_one_prompt_of_two(tmp_path):
    plain = prompted_tiny(tmp_path / "t5", "t5")
    model = TwoPrompts(plain.model, plain.vectors, -plain.vectors)
    before, after, state = take_steps(model, freeze=("^second$",))
    assert moved(before[0], after[0]) == {"first"} == set(before[0])
    assert "second" in before[1]
    assert moved(before[1], after[1]) == set()
    sizes = [leaf.size for leaf in jax.tree.leaves(state.opt_state)]
    assert sum(size for size in sizes if size > 1) == plain.vectors.size


@pytest.mark.parametrize("name", ["lester_adafactor", "adafactor", "adamw"])
@pytest.mark.usefixtures("standard_promotion")
def test_the_optimizers_mask_holds_for_the_full_state(tmp_path, name):
    """Given gradients everywhere and weight decay, what is frozen gets updates of exactly zero."""
    model = prompted_tiny(tmp_path / "t5", "t5")
    is_trained = partition.trainable_filter("prompt_tuning")
    options = OptimizerOptions(name=name, learning_rate=0.1, weight_decay=0.1)
    optimizer = partition.masked(make_optimizer(options, "prompt_tuning", 5), is_trained)
    full = nnx.state(model)
    before = contents(full)
    opt_state = optimizer.init(full)
    for _ in range(3):
        grads = jax.tree.map(jnp.ones_like, full)
        updates, opt_state = optimizer.update(grads, opt_state, full)
        full = optax.apply_updates(full, updates)
    assert moved(before, contents(full)) == {"prompt"}
    shapes = {leaf.shape for leaf in jax.tree.leaves(opt_state) if leaf.size > 1}
    assert shapes == {model.vectors.shape}


def test_a_prompt_step_costs_less_than_a_model_step(tmp_path):
    """No gradient of frozen weights is computed: FLOPs of the compiled steps, as XLA counts them.

    A forward pass costs 2 FLOPs a weight and token, the gradient of activations 2 more and that of
    weights 2 more; a prompt needs the first two only, so about 2/3. Attention scores cost the same
    in both, and the prompt's positions come on top. Compared are whole steps, loss and optimizer
    included, on one batch of 8 x (64 + 32) tokens by a T5 1.1 of common proportions (d_ff 4 x
    d_model) with a vocabulary of 192: measured 0.69.
    """
    make_tiny(
        tmp_path / "t5",
        **{"family": "t5", "d_model": 128, "d_ff": 512, "d_kv": 32, "num_heads": 4},
        **{"num_layers": 2, "num_decoder_layers": 2},
    )
    module = load_model(str(tmp_path / "t5")).module
    batch = random_batch(8, inputs=64, targets=32)

    def flops(method, vectors):
        model = PromptedModel(module, vectors)
        is_trained = partition.trainable_filter(method)
        graphdef, trainable, frozen = partition.split(model, is_trained)
        optimizer = partition.masked(make_optimizer(OptimizerOptions(), method, 1), is_trained)
        state = init_state(trainable, optimizer, 0)
        step = jax.jit(make_train_step(graphdef, optimizer))
        return step.lower(state, frozen, batch).compile().cost_analysis()["flops"]

    prompt_flops = flops("prompt_tuning", jnp.zeros((4, 128)))
    assert prompt_flops <= 0.72 * flops("model_tuning", None)
