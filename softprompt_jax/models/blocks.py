"""Running a model's blocks one after the other, and what of them the backward pass keeps.

Blocks are an `nnx.List`, or stacked: one block whose parameters have a leading axis of layers, over
which `jax.lax.scan` loops. A stack compiles one layer instead of all, and with rematerialisation it
bounds memory, since one layer at a time is computed anew.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from softprompt_jax.models.attention import Method
from softprompt_jax.models.stacking import block_at, is_stacked, layer_count

Remat = Literal["none", "attention", "dots", "full"]
"""What the backward pass computes anew instead of keeping it, ever more: nothing; attention
weights; all but the matrix products with weights; or all but the residual stream between attention
and feed-forward layers."""

_RESIDUAL = "residual"

Carry = TypeVar("Carry")


def set_remat(module: nnx.Module, remat: Remat) -> None:
    """Sets what a model's backward pass computes anew; changes no result."""
    for part in _modules(module):
        if hasattr(part, "remat"):
            part.remat = remat
    set_attention(module, "recompute" if remat == "attention" else "plain")


def set_attention(module: nnx.Module, method: Method) -> None:
    """Sets how a model computes attention; changes no result."""
    for part in _modules(module):
        if hasattr(part, "method"):
            part.method = method


def unroll_attention(module: nnx.Module) -> None:
    """Has attention that loops over rows take all of them at once; changes no result."""
    for part in _modules(module):
        if getattr(part, "method", None) == "by_row":
            part.method = "recompute"


def _modules(module: nnx.Module) -> Iterator[Any]:
    return (part for _, part in nnx.iter_modules(module))


def each_block(blocks: Any) -> Iterator[Any]:
    """The blocks one by one, of a stack too."""
    if is_stacked(blocks):
        yield from (block_at(blocks, i) for i in range(layer_count(blocks)))
    else:
        yield from blocks


def run_blocks(
    blocks: Any,
    function: Callable[[Any, Carry, Any], Carry],
    carry: Carry,
    remat: Remat,
) -> Carry:
    """Calls `carry = function(block, carry, number)` for every block.

    Args:
        blocks: in a list or stacked.
        function: pure; the number is an int, or int32 scalar in a stack.
        carry: arrays; what comes out has their shapes and dtypes.
        remat: as `Remat`; "attention" is the attention modules' own.
    """
    if not is_stacked(blocks):
        for number, block in enumerate(blocks):
            graphdef, state = nnx.split(block)

            def one(state: Any, carry: Carry, graphdef: Any = graphdef, number: int = number):
                return function(nnx.merge(graphdef, state), carry, number)

            carry = _rematerialised(one, remat)(state, carry)
        return carry

    graphdef, state = nnx.split(blocks)

    def body(carry: Carry, layer: Any) -> tuple[Carry, None]:
        state, number = layer
        return function(nnx.merge(graphdef, state), carry, number), None

    # A loop's body is compiled once: nothing in it can be merged with the forward pass.
    body = _rematerialised(body, remat, prevent_cse=False)
    return jax.lax.scan(body, carry, (state, jnp.arange(layer_count(blocks))))[0]


def _rematerialised(
    function: Callable[..., Any], remat: Remat, *, prevent_cse: bool = True
) -> Callable[..., Any]:
    if remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        return jax.checkpoint(function, policy=policy, prevent_cse=prevent_cse)
    if remat == "full":
        # Kept beside a layer's input: what follows attention spares its output projection.
        policy = jax.checkpoint_policies.save_only_these_names(_RESIDUAL)
        return jax.checkpoint(function, policy=policy, prevent_cse=prevent_cse)
    return function


def keep_residual(x: jax.Array) -> jax.Array:
    """Marks the residual stream within a block, which is kept whatever else is not."""
    return checkpoint_name(x, _RESIDUAL)
