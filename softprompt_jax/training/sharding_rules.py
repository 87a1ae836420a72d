"""Along which axes of a mesh each parameter of a model is cut: one table for all families.

A layer that projects into heads or hidden units is cut along `tensor` by its outputs, and the layer
that projects back by its inputs, so that between the two every device works on its own heads and
units, and one sum over the devices follows. The other dimension of every matrix is cut along
`fsdp`. What is small lies whole on every device.

References:
    Shoeybi et al. 2019, "Megatron-LM", section 3 (columns, then rows);
    Rajbhandari et al. 2020, "ZeRO", section 5.3 (parameters cut along the axis of the rows).
"""

import re
from collections.abc import Mapping

from jax.sharding import PartitionSpec

from softprompt_jax.models.stacking import is_of_stack

_Axes = tuple[str, ...]
_REPLICATED: _Axes = ()

_BLOCK = r"(?:(?:encoder|decoder)\.)?blocks\.(?:\d+\.)?"

RULES: tuple[tuple[str, _Axes], ...] = (
    (r"embedding", ("tensor", "fsdp")),
    (r"head\.kernel", ("fsdp", "tensor")),
    # GPT-2's one matrix for queries, keys and values too, although its thirds are no whole shards:
    # the compiler moves the results, which takes less than a copy of the matrix everywhere.
    (_BLOCK + r"(?:cross_)?attention\.(?:q|k|v|qkv)\.kernel", ("fsdp", "tensor")),
    (_BLOCK + r"(?:cross_)?attention\.(?:q|k|v|qkv)\.bias", ("tensor",)),
    (_BLOCK + r"mlp\.(?:gate|up)\.kernel", ("fsdp", "tensor")),
    (_BLOCK + r"mlp\.(?:gate|up)\.bias", ("tensor",)),
    (_BLOCK + r"(?:(?:cross_)?attention\.o|mlp\.down)\.kernel", ("tensor", "fsdp")),
    (_BLOCK + r"(?:(?:cross_)?attention\.o|mlp\.down)\.bias", _REPLICATED),
    (_BLOCK + r"(?:(?:cross_)?attention_norm|mlp_norm)\.(?:scale|bias)", _REPLICATED),
    (_BLOCK + r"attention\.[qk]_norm\.scale", _REPLICATED),
    (r"(?:(?:encoder|decoder)\.)?final_norm\.(?:scale|bias)", _REPLICATED),
    (r"(?:encoder|decoder)\.relative_bias", _REPLICATED),
    (r"position_embedding", _REPLICATED),
)
"""Pattern of the whole dotted path (`re.fullmatch`), and the mesh axis of each dimension. A
parameter matches at most one; no axes: it is replicated."""


def partition_spec(
    path: str, shape: tuple[int, ...], mesh_shape: Mapping[str, int]
) -> PartitionSpec:
    """How a parameter is cut.

    Args:
        path: dotted, as "encoder.blocks.0.attention.q.kernel"; without a number, as
            "encoder.blocks.attention.q.kernel", it is that of all layers, and its first dimension
            counts them.
        shape: of the whole parameter.
        mesh_shape: axes of the mesh and their sizes. An axis that the mesh lacks, or whose size
            does not divide the dimension, does not cut it.

    Raises:
        ValueError: no rule covers the path, or the rule is for another number of dimensions.
    """
    covering = [axes for pattern, axes in RULES if re.fullmatch(pattern, path)]
    if not covering:
        raise ValueError(f"No sharding rule covers the parameter {path}; add one to RULES.")
    axes = covering[0]
    if axes == _REPLICATED:
        return PartitionSpec()
    first = 1 if is_of_stack(path) else 0
    if len(shape) != first + len(axes):
        raise ValueError(
            f"The sharding rule of {path} is for {first + len(axes)} dimensions, not {len(shape)}."
        )
    cut = [
        axis if axis in mesh_shape and size % mesh_shape[axis] == 0 else None
        for axis, size in zip(axes, shape[first:], strict=True)
    ]
    return PartitionSpec(*[None] * first, *cut)
