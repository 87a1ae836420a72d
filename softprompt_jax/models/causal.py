"""What Llama and GPT-2 share: blocks, and running them over new positions after earlier ones.

Rows differ in length and may be padded anywhere: positions count real tokens only, and a mask hides
the rest. So a sequence may be computed in parts, the later ones with the keys and values of the
earlier as their `Past`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from softprompt_jax.errors import UserError
from softprompt_jax.models.attention import (
    KeysValues,
    Past,
    causal_bias,
    count_real,
    gather_positions,
    gather_queries,
    padding_bias,
    token_positions,
    visible_bias,
    window_bias,
)
from softprompt_jax.models.blocks import Remat, each_block, keep_residual, run_blocks
from softprompt_jax.models.layers import (
    MLP,
    Dropout,
    LayerNorm,
    Linear,
    RMSNorm,
    apply_dropout,
    unembed,
)
from softprompt_jax.models.stacking import is_stacked

Norm = RMSNorm | LayerNorm
Tables = tuple[jax.Array, jax.Array] | None
"""What a family's attention needs to know of the queries' positions."""


class CausalBlock(nnx.Module):
    """Attention and a feed-forward layer, norms first.

    Args:
        attention: called as
            `attention(x_BxLxD, tables, biases, dropout, site, earlier, column, at_BxT)`, gives
            [B, L, D], or [B, T, D] of those positions, and the keys and values that it saw.
        residual_dropout: whether dropout acts on what the two layers give.
    """

    def __init__(
        self,
        attention_norm: Norm,
        attention: Any,
        mlp_norm: Norm,
        mlp: MLP,
        *,
        residual_dropout: bool,
    ):
        self.attention_norm = attention_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp
        self.residual_dropout = residual_dropout

    def __call__(
        self,
        x_BxLxD: jax.Array,
        tables: Tables,
        biases: tuple[jax.Array, ...],
        dropout: Dropout | None,
        site: int | jax.Array,
        earlier: KeysValues | None,
        column: jax.Array | None,
        at_BxT: jax.Array | None = None,
    ) -> tuple[jax.Array, KeysValues]:
        """Returns the residual stream [B, L, D] after the block, and the keys and values seen.

        With at_BxT the stream is [B, T, D], of these positions only; the biases are theirs then.
        """
        normed = self.attention_norm(x_BxLxD)
        y, seen = self.attention(normed, tables, biases, dropout, site, earlier, column, at_BxT)
        residual = dropout if self.residual_dropout else None
        x_BxLxD = gather_positions(x_BxLxD, at_BxT) + apply_dropout(residual, y, site + 1)
        x_BxLxD = keep_residual(x_BxLxD)
        y = self.mlp(self.mlp_norm(x_BxLxD))
        return x_BxLxD + apply_dropout(residual, y, site + 2), seen


class CausalModel(nnx.Module):
    """A causal language model; a family sets these attributes and says how positions enter.

    Attributes:
        config: its shape.
        embedding: [V, D].
        blocks: `CausalBlock`s.
        final_norm: after the last block.
        head: the output head; None: the embedding.
        windows: for each layer how many positions back it sees, itself included; None: all.
        remat: what a backward pass computes anew.
    """

    config: Any
    embedding: nnx.Param
    blocks: Any
    final_norm: Norm
    head: Linear | None
    windows: tuple[int | None, ...]
    remat: Remat = "none"

    @abstractmethod
    def enter(
        self, x_BxLxD: jax.Array, positions_BxL: jax.Array, dropout: Dropout | None
    ) -> tuple[jax.Array, Tables]:
        """The residual stream before the first block, and the blocks' `tables`."""

    def embed(self, ids_BxL: jax.Array) -> jax.Array:
        """Token embeddings [B, L, D] in the dtype of the model, without positions."""
        return self.embedding[...][ids_BxL]

    def unembed(self, h_BxTxD: jax.Array) -> jax.Array:
        """Logits, float32 [B, T, V], of hidden states."""
        return unembed(h_BxTxD, self.embedding, self.head)

    def check_length(self, length: int) -> None:
        """Refuses a sequence that is longer than the model's position embedding, if it has one.

        Raises:
            UserError: it is longer.
        """
        limit = self.config.max_positions
        if limit is not None and length > limit:
            raise UserError(
                f"A sequence of {length} positions (prompt, input and target together) is "
                f"longer than the model's limit of {limit}: shorten the input or the prompt."
            )

    def __call__(
        self,
        x_BxLxD: jax.Array,
        mask_BxL: jax.Array | None = None,
        *,
        at_BxT: jax.Array | None = None,
        past: Past | None = None,
        positions_BxL: jax.Array | None = None,
        visible_LxL: np.ndarray | None = None,
        dropout: Dropout | None = None,
    ) -> jax.Array:
        """Hidden states after the final norm.

        Args:
            x_BxLxD: embedded tokens, and virtual ones among them.
            mask_BxL: bool, True for real tokens; None means all.
            at_BxT: int32 sequence indexes whose hidden states are wanted; None means all.
            past: what stands before every row, from `prefix`.
            positions_BxL: int32 positions, which the caller checks; None: they count the real
                tokens, those of the past too, so padding changes nothing wherever it stands.
            visible_LxL: bool, which of the L tokens each of them sees; None: itself and the earlier
                ones.
            dropout: dropout, or None.

        Returns:
            [B, T, D], or [B, L, D] without at_BxT. At masked positions the numbers are finite and
            mean nothing.

        Raises:
            UserError: as `check_length`. A past whose mask is given counts as empty there, since
                only the rows' real positions matter: its maker has to see to the limit.
        """
        x = x_BxLxD
        positions, biases = self._view(past, x, mask_BxL, positions_BxL, visible_LxL)
        if past is not None:
            x, _ = self._run(x, *positions, biases, past.layers, None, dropout)
        else:
            x = self._run_alone(x, *positions, biases, dropout)
        return self.final_norm(gather_positions(x, at_BxT))

    def after_prompt(
        self, prompt_PxD: jax.Array, x_BxLxD: jax.Array, at_BxT: jax.Array
    ) -> jax.Array:
        """Hidden states of texts that all follow one prompt, after the final norm.

        The prompt sees nothing of what follows it, so it goes through the model once, beside the
        texts, and not once a row. The last block is computed where its output is wanted only.

        Args:
            prompt_PxD: virtual tokens.
            x_BxLxD: embedded tokens, with padding at the end only.
            at_BxT: int32 indexes into the texts.

        Returns:
            [B, T, D].

        Raises:
            UserError: as `check_length`.
        """
        before, length = prompt_PxD.shape[0], x_BxLxD.shape[1]
        self.check_length(before + length)
        positions_P, positions_L = (
            token_positions(None, before),
            token_positions(None, length, before),
        )
        prompt, prompt_tables = self.enter(prompt_PxD[None], positions_P, None)
        texts, text_tables = self.enter(x_BxLxD, positions_L, None)
        prompt_biases = self._windowed((causal_bias(before),), positions_P, positions_P)
        positions_S = _join_rows(positions_P, positions_L)
        text_biases = self._windowed((causal_bias(length, before),), positions_L, positions_S)

        def run(
            block: CausalBlock, streams: tuple[jax.Array, jax.Array], number: Any, at: Any = None
        ) -> tuple[jax.Array, jax.Array]:
            prompt, texts = streams
            window = self._window(number)
            own = prompt_biases[window]
            prompt, seen = block(prompt, prompt_tables, own, None, 0, None, None)
            own = gather_queries(text_biases[window], at)
            texts, _ = block(texts, text_tables, own, None, 0, seen, None, at)
            return prompt, texts

        if is_stacked(self.blocks):
            _, texts = run_blocks(self.blocks, run, (prompt, texts), self.remat)
            return self.final_norm(gather_positions(texts, at_BxT))
        *blocks, last = self.blocks
        streams = run_blocks(blocks, run, (prompt, texts), self.remat)
        return self.final_norm(run(last, streams, len(blocks), at_BxT)[1])

    def prefix(
        self, x_BxLxD: jax.Array, mask_BxL: jax.Array | None = None, past: Past | None = None
    ) -> Past:
        """What positions to come may see of these ones and of the past before them.

        Earlier positions see nothing of later ones: those of a prompt are the same before any text,
        and one row of them ([1, L, D]) serves all rows of a batch.

        Raises:
            UserError: as `__call__`.
        """
        positions, biases = self._view(past, x_BxLxD, mask_BxL, None, None)
        before = None if past is None else past.layers
        _, layers = self._run(x_BxLxD, *positions, biases, before, None, None)
        return Past(layers, _join_masks(past, x_BxLxD, mask_BxL))

    def extend(
        self,
        x_BxLxD: jax.Array,
        layers: Sequence[KeysValues],
        column: jax.Array,
        *,
        positions_BxL: jax.Array,
        positions_BxS: jax.Array,
        visible_BxLxS: jax.Array,
    ) -> tuple[jax.Array, list[KeysValues]]:
        """One step of decoding: a few tokens a row, after all that is in the cache.

        Args:
            x_BxLxD: the embedded tokens.
            layers: the cache: each layer's keys and values in S columns, [B, G, S, K].
            column: int32 scalar: these tokens' keys and values go to L columns from this one on.
            positions_BxL: the tokens' positions.
            positions_BxS: the columns' positions.
            visible_BxLxS: bool, which columns each token sees.

        Returns:
            Hidden states [B, L, D] after the final norm, and the cache with these tokens.
        """
        biases = (visible_bias(visible_BxLxS),)
        x, layers = self._run(x_BxLxD, positions_BxL, positions_BxS, biases, layers, column, None)
        return self.final_norm(x), layers

    def _view(
        self,
        past: Past | None,
        x: jax.Array,
        mask_BxL: jax.Array | None,
        positions_BxL: jax.Array | None,
        visible_LxL: np.ndarray | None,
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
        """The positions of x and of all that it may see, and the biases of its scores."""
        length = x.shape[1]
        before = 0 if past is None else past.layers[0].keys.shape[2]
        past_mask = None if past is None else past.mask
        if positions_BxL is None:
            self.check_length(length + (before if past_mask is None else 0))
            past_length = before if past_mask is None else count_real(past_mask)
            positions_BxL = token_positions(mask_BxL, length, past_length)
        past_positions = token_positions(past_mask, before)
        if visible_LxL is None:
            biases = (causal_bias(length, before),)
        else:
            visible_LxS = np.pad(visible_LxL, ((0, 0), (before, 0)), constant_values=True)
            biases = (visible_bias(jnp.asarray(visible_LxS)[None]),)
        mask_BxS = _join_masks(past, x, mask_BxL)
        if mask_BxS is not None:
            biases = (*biases, padding_bias(mask_BxS))
        return (positions_BxL, _join_rows(past_positions, positions_BxL)), biases

    def _run(
        self,
        x: jax.Array,
        positions_BxL: jax.Array,
        positions_BxS: jax.Array,
        biases: tuple[jax.Array, ...],
        layers: Sequence[KeysValues] | None,
        column: jax.Array | None,
        dropout: Dropout | None,
    ) -> tuple[jax.Array, list[KeysValues]]:
        """The residual stream [B, L, D] after all blocks, and each one's keys and values."""
        x, tables = self.enter(x, positions_BxL, dropout)
        windowed = self._windowed(biases, positions_BxL, positions_BxS)
        kept = []
        for i, block in enumerate(each_block(self.blocks)):
            earlier = None if layers is None else layers[i]
            own_biases = windowed[self._window(i)]
            x, seen = block(x, tables, own_biases, dropout, 8 * (i + 1), earlier, column)
            kept.append(seen)
        return x, kept

    def _run_alone(
        self,
        x: jax.Array,
        positions_BxL: jax.Array,
        positions_BxS: jax.Array,
        biases: tuple[jax.Array, ...],
        dropout: Dropout | None,
    ) -> jax.Array:
        """As `_run` for the residual stream only, of a sequence with nothing before it."""
        x, tables = self.enter(x, positions_BxL, dropout)
        windowed = self._windowed(biases, positions_BxL, positions_BxS)

        def run(block: CausalBlock, x: jax.Array, number: Any) -> jax.Array:
            own = windowed[self._window(number)]
            return block(x, tables, own, dropout, 8 * (number + 1), None, None)[0]

        return run_blocks(self.blocks, run, x, self.remat)

    def _window(self, number: Any) -> int | None:
        """The window of a layer; a stack's layers all have the same."""
        return self.windows[0 if is_stacked(self.blocks) else number]

    def _windowed(
        self,
        biases: tuple[jax.Array, ...],
        positions_BxL: jax.Array,
        positions_BxS: jax.Array,
    ) -> dict[int | None, tuple[jax.Array, ...]]:
        """The biases of each window that a layer has."""
        # A window as long as the sequence hides nothing.
        return {
            window: biases
            if window is None or window >= positions_BxS.shape[1]
            else (*biases, window_bias(positions_BxL, positions_BxS, window))
            for window in dict.fromkeys(self.windows)
        }


def _join_rows(first_BxM: jax.Array, second_BxL: jax.Array) -> jax.Array:
    """[B, M+L]; either may have a single row for all."""
    rows = max(first_BxM.shape[0], second_BxL.shape[0])
    parts = [jnp.broadcast_to(x, (rows, x.shape[1])) for x in (first_BxM, second_BxL)]
    return jnp.concatenate(parts, axis=1)


def _join_masks(past: Past | None, x: jax.Array, mask_BxL: jax.Array | None) -> jax.Array | None:
    """The mask of past and x, bool [B, M+L]; None if all is real."""
    if past is None:
        return mask_BxL
    if past.mask is None and mask_BxL is None:
        return None
    rows, length = x.shape[:2]
    past_mask = past.mask
    if past_mask is None:
        past_mask = jnp.ones((1, past.layers[0].keys.shape[2]), bool)
    own = jnp.ones((rows, length), bool) if mask_BxL is None else mask_BxL
    return _join_rows(past_mask, own)
