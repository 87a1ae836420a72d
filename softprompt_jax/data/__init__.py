"""From a task's text pairs to padded batches: tokenisation, length buckets, exact iteration."""

from softprompt_jax.data.batches import (
    BatchStream,
    HostBatch,
    assemble_batch,
    evaluation_batches,
    padding_share,
)
from softprompt_jax.data.buckets import Shape, plan_buckets, plan_shapes
from softprompt_jax.data.mixing import Mixing, concatenate, limited_rates
from softprompt_jax.data.tokenization import (
    TokenizedExamples,
    encode_choices,
    encode_inputs,
    encode_targets,
    tokenize_pairs,
)

__all__ = [
    "BatchStream",
    "HostBatch",
    "Mixing",
    "Shape",
    "TokenizedExamples",
    "assemble_batch",
    "concatenate",
    "encode_choices",
    "encode_inputs",
    "encode_targets",
    "evaluation_batches",
    "limited_rates",
    "padding_share",
    "plan_buckets",
    "plan_shapes",
    "tokenize_pairs",
]
