"""The predictor's compiled functions: a batch of rows in, answers out.

The bank of prompts and the numbers of sampling are arguments, so that neither a prompt that comes
or goes nor another temperature compiles anything. Rows are spread over the devices of a mesh. Those
of `PmapLayout` have whole weights and do not talk to each other; for those of `MeshLayout`, which
have parts of the weights, the compiler sees to what they tell each other.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from softprompt_jax.inference import decoding
from softprompt_jax.inference.beam_search import beam_search
from softprompt_jax.inference.prompt_bank import make_bank, put_prompt, take_rows
from softprompt_jax.inference.sampling import Sampler, row_keys
from softprompt_jax.inference.scoring import choice_log_likelihoods
from softprompt_jax.prompts.prompted_model import RowPrompts
from softprompt_jax.training.parallel import AXIS, ROW_AXES

Rows = Mapping[str, Any]
"""`inputs` and `input_mask` [B, S], `places` int32 [B] in the bank; to score `choices` and
`choice_mask` [B, C, T], to generate `numbers` int32 [B], which what is drawn depends on."""


class Search(NamedTuple):
    """What of a way to decode is compiled in.

    Attributes:
        max_new_tokens: length of the answer at most.
        sampled: draw tokens; else the likeliest.
        top_k: as in `Sampler`.
        nucleus: whether `Numbers.top_p` counts.
        beams: 1 for none.
        length_penalty: of beam search.
    """

    max_new_tokens: int
    sampled: bool = False
    top_k: int | None = None
    nucleus: bool = False
    beams: int = 1
    length_penalty: float = 1.0


class Numbers(NamedTuple):
    """What of a way to decode may change without compiling."""

    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0


def row_spec(mesh: Mesh) -> PartitionSpec:
    """How the rows of a batch are shared out over the mesh of a layout."""
    return PartitionSpec(AXIS if AXIS in mesh.axis_names else ROW_AXES)


def _over_rows(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Maps `function(shared, rows)`, whose results have a row each, over the mesh's devices."""
    if mesh.size == 1 or AXIS not in mesh.axis_names:
        return function
    rows = row_spec(mesh)
    return jax.shard_map(
        function, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows, check_vma=False
    )


@functools.partial(jax.jit, static_argnums=0)
def bank_of_one(graphdef: Any, state: Any, vectors_1xPxD: Any, mask_1xP: Any) -> Any:
    """What the bank keeps of a prompt."""
    return make_bank(nnx.merge(graphdef, state), RowPrompts(vectors_1xPxD, mask_1xP))


@jax.jit
def put(bank: Any, place: Any, one: Any) -> Any:
    """A copy of the bank with a prompt at a place: calls under way read on from the old one."""
    return put_prompt(bank, place, one)


@functools.partial(jax.jit, donate_argnums=0)
def put_in_place(bank: Any, place: Any, one: Any) -> Any:
    """The same where nobody else has the bank, which is given away."""
    return put_prompt(bank, place, one)


@functools.partial(jax.jit, static_argnums=(0, 1))
def score(graphdef: Any, mesh: Mesh, state: Any, bank: Any, rows: Rows) -> jax.Array:
    """Log-likelihoods of each row's choices, float32 [B, C]."""

    def score_rows(shared: Any, rows: Rows) -> jax.Array:
        state, bank = shared
        model, prompts = nnx.merge(graphdef, state), take_rows(bank, rows["places"])
        return choice_log_likelihoods(model, rows, rows["choices"], rows["choice_mask"], prompts)

    return _over_rows(score_rows, mesh)((state, bank), rows)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def generate(
    graphdef: Any,
    mesh: Mesh,
    search: Search,
    state: Any,
    bank: Any,
    rows: Rows,
    numbers: Numbers,
) -> jax.Array:
    """Answers to their end, int32 [B, max_new_tokens]."""

    def generate_rows(shared: Any, rows: Rows) -> jax.Array:
        state, bank, numbers = shared
        model, prompts = nnx.merge(graphdef, state), take_rows(bank, rows["places"])
        if search.beams > 1:
            found = beam_search(
                model,
                rows,
                prompts,
                search.max_new_tokens,
                beams=search.beams,
                length_penalty=search.length_penalty,
            )
            return found.ids[:, 0]
        choose = _chooser(search, numbers, rows)
        return decoding.generate(model, rows, prompts, search.max_new_tokens, choose)

    return _over_rows(generate_rows, mesh)((state, bank, numbers), rows)


@functools.partial(jax.jit, static_argnums=(0, 1))
def start(
    graphdef: Any, max_new_tokens: int, state: Any, bank: Any, rows: Rows
) -> decoding.DecodeState:
    """Decodes that `advance` takes on, a few tokens at a time."""
    model, prompts = nnx.merge(graphdef, state), take_rows(bank, rows["places"])
    return decoding.start(model, rows, prompts, max_new_tokens)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def advance(
    graphdef: Any,
    search: Search,
    state: Any,
    decodes: decoding.DecodeState,
    steps: Any,
    rows: Rows,
    numbers: Numbers,
) -> decoding.DecodeState:
    """So many more tokens."""
    model = nnx.merge(graphdef, state)
    return decoding.advance(model, decodes, steps, _chooser(search, numbers, rows))


def _chooser(search: Search, numbers: Numbers, rows: Rows) -> decoding.Choose | None:
    if not search.sampled:
        return None
    return Sampler(
        row_keys(jnp.asarray(numbers.seed), rows["numbers"]),
        jnp.asarray(numbers.temperature, jnp.float32),
        search.top_k,
        jnp.asarray(numbers.top_p, jnp.float32) if search.nucleus else None,
    )
