"""Blocks in a list or stacked into one, whose parameters have a leading axis of layers."""

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from softprompt_jax.errors import UserError


def is_stacked(blocks: Any) -> bool:
    """Whether blocks are stacked into one."""
    return not isinstance(blocks, (nnx.List, list, tuple))


def layer_count(blocks: Any) -> int:
    """How many layers stacked blocks have."""
    return jax.tree.leaves(nnx.state(blocks))[0].shape[0]


def block_at(blocks: Any, index: int) -> Any:
    """One of stacked blocks."""
    graphdef, state = nnx.split(blocks)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[index], state))


def stack_blocks(module: Any) -> Any:
    """A model whose blocks are stacked: T5's of the encoder and those of the decoder, each.

    Args:
        module: `T5`, `Llama` or `GPT2`, which stays as it is. With abstract parameters
            (`jax.ShapeDtypeStruct`) the result has such too.

    Raises:
        UserError: the blocks differ in more than their parameters' values.
    """
    if len(set(getattr(module, "windows", ()))) > 1:
        raise UserError(
            "The layers of this model see differently far back (sliding windows), so they cannot "
            "be one loop's; set --train.scan_layers False."
        )
    module = nnx.merge(*nnx.split(module))
    for holder in _holders(module):
        if not is_stacked(holder.blocks):
            holder.blocks = _stacked(list(holder.blocks))
    return module


def each_layer(path: str, count: int) -> Iterator[str]:
    """The paths, in a model that is not stacked, of what one parameter of a stack holds.

    Args:
        path: dotted, as "encoder.blocks.attention.q.kernel".
        count: of the layers.
    """
    before, blocks, after = path.rpartition("blocks.")
    return (f"{before}{blocks}{number}.{after}" for number in range(count))


def is_of_stack(path: str) -> bool:
    """Whether a dotted path is that of a stack's parameter."""
    return re.search(r"\bblocks\.(?!\d)", path) is not None


def _holders(module: Any) -> list[Any]:
    """The parts of a model that have blocks."""
    return [module] if hasattr(module, "blocks") else [module.encoder, module.decoder]


def _stacked(blocks: list[Any]) -> Any:
    graphdefs, states = zip(*(nnx.split(block) for block in blocks), strict=True)
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) for state in states]
    if any(each != graphdefs[0] for each in graphdefs) or any(each != shapes[0] for each in shapes):
        raise UserError(
            "The layers of this model differ, so they cannot be one loop's; set "
            "--train.scan_layers False."
        )

    def stack(*leaves: Any) -> Any:
        if isinstance(leaves[0], jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct((len(leaves), *leaves[0].shape), leaves[0].dtype)
        return jnp.stack(leaves)

    return nnx.merge(graphdefs[0], jax.tree.map(stack, *states))
