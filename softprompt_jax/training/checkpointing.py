"""Checkpoints of what training changes, by orbax: whole or absent, written in the background."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from softprompt_jax.errors import UserError
from softprompt_jax.training.step import TrainState

KEPT = 2  # the last one, and one more in case a disk fails under it


class Checkpoints:
    """The checkpoints of one run: trainable part, optimizer, step, key and the loop's own state.

    Of several processes, which share the folder, each writes and reads what its devices have; all
    have to save the same steps.

    The frozen weights are not in them: they come from the model's files. Where the data stands is
    a function of the step.
    """

    def __init__(self, folder: Path):
        # A resumed run says so itself, and what goes wrong is raised; orbax's own lines drown that.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._checkpointer = ocp.training.Checkpointer(
            str(folder.absolute()),
            # Its own protocol is typed for another metadata class than its policies are.
            preservation_policy=ocp.training.preservation_policies.LatestN(KEPT),  # pyright: ignore[reportArgumentType]
            cleanup_tmp_directories=True,
        )
        latest = self._checkpointer.latest
        # Kept here: orbax learns of a save when it is done, on one process before another.
        self._latest_step = None if latest is None else latest.step
        self._abandoned = False

    @property
    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._latest_step

    def save(self, state: TrainState, step: int, loop_state: dict[str, Any]) -> None:
        """Starts to write a checkpoint; training goes on meanwhile.

        Args:
            state: of the devices; copied first, so it may be donated afterwards.
            step: its number. A checkpoint of this step that exists already is left alone.
            loop_state: JSON values that the loop needs to go on.
        """
        if step != self._latest_step:
            self._latest_step = step
            # On CPU orbax would read the very buffers that the next step is given to overwrite.
            copied = jax.tree.map(jnp.copy, _by_path(state))
            # Without force, orbax passes over a step while an earlier one is still being written.
            self._checkpointer.save_async(
                step, copied, force=True, custom_metadata={"loop": loop_state}
            )

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint.

        Args:
            like: a state of the same shapes, types and placement, or what `released` left of one.

        Raises:
            UserError: the checkpoint is of another kind of run, or damaged.
        """
        wanted = _by_path(like)
        latest = self._checkpointer.latest
        folder = self._checkpointer.directory / str(self.latest_step)
        try:
            metadata = self._checkpointer.metadata(latest)
            found = _shapes(metadata.metadata)
            # Before anything is read: orbax leaves reads behind when one of them fails.
            if not found:
                raise ValueError("it holds no arrays")
            if found != _shapes(wanted):
                raise UserError(
                    f"The checkpoint {folder} is of other parameters than this run trains: of "
                    "another model, or of other --train.remat or --train.scan_layers; bring them "
                    "back to go on, or choose another --workdir."
                )
            if not isinstance(metadata.custom_metadata, dict):
                raise ValueError("its metadata is missing")
            loop_state: Any = metadata.custom_metadata["loop"]
            leaves = self._checkpointer.load(latest, wanted)
        except UserError:
            raise
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"The checkpoint {folder} is damaged; delete it to go on from the one before it, "
                "or start anew with another --workdir."
            ) from error
        state = jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in wanted])
        return state, loop_state

    def abandon(self) -> None:
        """Gives up what is being written: another process, which has its part of it, has died."""
        self._abandoned = True

    def close(self) -> None:
        """Waits for what is being written, unless it was given up."""
        if not self._abandoned:
            self._checkpointer.close()


def released(state: TrainState) -> TrainState:
    """Gives up a state's memory, so that a checkpoint can be read in its place.

    Returns:
        Its shapes, types and placement.
    """

    def released_leaf(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        kept = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        leaf.delete()
        return kept

    return jax.tree.map(released_leaf, state)


def _by_path(state: TrainState) -> dict[str, Any]:
    """Leaves by path: plain names and arrays, whatever types of containers hold them."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _shapes(leaves: Any) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in dict(leaves or {}).items()}
