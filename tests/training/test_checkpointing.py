import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softprompt_jax.errors import UserError
from softprompt_jax.training.checkpointing import KEPT, Checkpoints, released
from softprompt_jax.training.step import TrainState

LOOP = {"best_value": 0.5, "best_metrics": {"validation/accuracy": 0.5}, "best_step": None}


def make_state(value):
    """A state with a nested optimizer state and an empty part."""
    key_data = jax.random.key_data(jax.random.key(3))
    trainable = {"prompt": jnp.full((4, 8), value)}
    opt_state = ((jnp.int32(2), {"v": jnp.full((4, 8), value / 3)}), ())
    return TrainState(trainable, opt_state, jnp.int32(value), key_data)


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    yield checkpoints
    checkpoints.close()


def save(folder, *steps):
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(make_state(float(step)), step, LOOP)
    checkpoints.close()


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_a_value_that_is_not_finite_comes_back(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder)
    checkpoints.save(make_state(1.0), 1, {"best_value": -math.inf})
    checkpoints.close()
    again = Checkpoints(folder)
    assert again.restore(make_state(0.0))[1] == {"best_value": -math.inf}
    again.close()


def test_there_is_none_at_first(checkpoints):
    assert checkpoints.latest_step is None


def test_the_newest_comes_back_bit_by_bit(tmp_path, checkpoints):
    save(tmp_path / "checkpoints", 1, 2, 7)
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.latest_step == 7
    state, loop_state = again.restore(make_state(0.0))
    again.close()
    same(state, make_state(7.0))
    assert loop_state == LOOP
    assert len(list((tmp_path / "checkpoints").iterdir())) == KEPT


def test_a_state_gives_up_its_memory_for_the_one_that_is_read(tmp_path):
    save(tmp_path / "checkpoints", 3)
    state = make_state(0.0)
    left = released(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    restored, _ = checkpoints.restore(left)
    checkpoints.close()
    same(restored, make_state(3.0))


def test_a_step_may_be_saved_twice(tmp_path):
    """A stop may be asked for at a step that has its checkpoint anyway."""
    save(tmp_path / "checkpoints", 1, 1)
    save(tmp_path / "checkpoints", 1)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest_step == 1
    checkpoints.close()


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state = make_state(1.0)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x + x, s), donate_argnums=0)
    for step in range(1, 6):
        checkpoints.save(state, step, LOOP)
        saved = jax.tree.map(np.array, state)
        state = overwrite(state)
    checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints")
    same(again.restore(make_state(0.0))[0], jax.tree.map(jnp.asarray, saved))
    again.close()


def test_an_unfinished_checkpoint_is_none(tmp_path):
    """What a killed process leaves has a temporary name."""
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    (folder / "1").rename(folder / "2.orbax-checkpoint-tmp")
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest_step is None
    checkpoints.close()


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("_CHECKPOINT_METADATA", "cut"),
        ("_CHECKPOINT_METADATA", "gone"),
        ("state/manifest.ocdbt", "cut"),
        ("state/_METADATA", "garbled"),
        ("state/d/*", "cut"),
        ("state/d/*", "garbled"),
        ("state/d/*", "gone"),
    ],
)
@pytest.mark.slow
def test_a_damaged_checkpoint_is_told(tmp_path, pattern, damage):
    """The newest one is damaged; deleted, the one before it takes over."""
    folder = tmp_path / "checkpoints"
    save(folder, 1, 2)
    (path,) = (folder / "2").glob(pattern)
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbled":
        path.write_bytes(bytes(255 - byte for byte in content))
    # In a process of its own: orbax abandons its other reads, and Python warns of them at a time of
    # its choice.
    script = f"from test_checkpointing import restore; restore({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    (said,) = done.stdout.splitlines()
    assert "checkpoints/2 is damaged; delete it" in said


def restore(folder):
    checkpoints = Checkpoints(Path(folder))
    try:
        checkpoints.restore(make_state(0.0))
    except UserError as error:
        print(error)
    checkpoints.close()


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    checkpoints = Checkpoints(folder)
    like = make_state(0.0)._replace(trainable={"prompt": jnp.zeros((5, 8))})
    with pytest.raises(UserError, match=r"is of other parameters .* --train\.remat"):
        checkpoints.restore(like)
    checkpoints.close()


def test_what_another_process_will_not_finish_is_not_waited_for(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints._checkpointer, "close", lambda: pytest.fail("it waited"))
        checkpoints.abandon()
        checkpoints.close()
    checkpoints._checkpointer.close()
