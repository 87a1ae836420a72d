"""Prompts of other parameterisations on tiny models, and training steps of them by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from lively_models import make_lively
from small_runs import ONE_LAYER, changed, prompted_tiny, random_batch, small_config

from softprompt_jax.prompts import PromptedModel
from softprompt_jax.training.setup import parameterized, place

ROWS = 16
STEPS = 60


def make_models(folder):
    """Writes tiny models whose prompts have a say in what follows, and data; returns the folder."""
    for family in ("t5", "llama"):
        make_lively(folder / family, family, **ONE_LAYER[family])
        small_config(folder, family)
    return folder


def config_of(folder, kind, family="llama", **changes):
    config = small_config(folder, family, prompt__parameterization=kind, prompt__hidden_size=16)
    return changed(config, **changes)


def prompted_of(folder, config, family="llama"):
    plain = prompted_tiny(folder / family, family)
    return PromptedModel(plain.model, parameterized(config, plain.vectors, 2, plain.model))


def prepared_of(folder, kind, layout, family="llama", objectives=None, **changes):
    config = config_of(folder, kind, family, **changes)
    prompted = prompted_of(folder, config, family)
    return place(config, prompted, layout, objectives)


def batch_of(step=0):
    """Rows of two tasks, in turn, each with an answer of its own to any input."""
    batch = random_batch(ROWS, seed=step)
    task = np.arange(ROWS, dtype=np.int32) % 2
    answers = np.where(task == 0, 20, 40).astype(np.int32)
    targets = np.repeat(answers[:, None], batch["targets"].shape[1], axis=1)
    return {**batch, "targets": targets, "prompt_ids": task}


def run(prepared, layout, first, last, state=None):
    """The state after the steps from `first` on, and their metrics; the given state is kept."""
    state = jax.tree.map(jnp.copy, prepared.state if state is None else state)
    history = []
    for i in range(first, last):
        rows = layout.place_rows(batch_of(i), ROWS)
        state, metrics = prepared.train_step(state, prepared.frozen, rows)
        assert metrics["finite"] == 1
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def contents(state):
    """Bytes of each leaf by dotted path."""
    return {
        ".".join(map(str, path)): np.asarray(leaf[...]).tobytes()
        for path, leaf in nnx.to_flat_state(state)
    }


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
