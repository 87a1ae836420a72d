"""P-tuning's encoders: the prompt is what an MLP or an LSTM makes of a table."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from softprompt_jax.prompts.prompted_model import Prompt
from softprompt_jax.prompts.reparameterizations.base import (
    Dense,
    Reparameterization,
    uniform_network,
)


class MLPEncoder(Reparameterization):
    """P-tuning with an MLP: three layers with relu between them over a table of inputs.

    The table starts as `--prompt.init` says (released codes: at random), the prompt as what the
    network makes of it.

    Parameters: P D + (D H + H) + (H H + H) + (H D + D).

    Args:
        vectors: float32 `[P, D]`, how the table starts.
        hidden: H; PEFT's default is D.
        key: of the network's start, which is torch's.

    References:
        Liu et al. 2021, "GPT Understands, Too", section 3.2; PEFT's `PromptEncoder`, whose module
        gives the same with the same weights.
    """

    def __init__(self, vectors: Float[Array, "P D"], hidden: int, *, key: jax.Array):
        width = vectors.shape[1]
        keys = jax.random.split(key, 3)
        self.table = Prompt(vectors)
        self.first = Dense(width, hidden, key=keys[0])
        self.second = Dense(hidden, hidden, key=keys[1])
        self.third = Dense(hidden, width, key=keys[2])

    @property
    def vectors(self) -> Float[Array, "P D"]:
        """What the MLP makes of the table."""
        h_PxH = jax.nn.relu(self.first(self.table[...]))
        return self.third(jax.nn.relu(self.second(h_PxH)))


class LSTMDirection(nnx.Module):
    """An LSTM over positions in one direction, from a state of zeros.

    Gates stand in torch's order: input, forget, cell, output. torch has two biases, of which only
    the sum has an effect; this is the sum.

    Args:
        n_in: inputs.
        hidden: H.
        key: of the start, uniform within 1/sqrt(H) of 0 as torch's.
    """

    def __init__(self, n_in: int, hidden: int, *, key: jax.Array):
        keys = jax.random.split(key, 3)
        bound = hidden**-0.5
        self.input_kernel = uniform_network(keys[0], (n_in, 4 * hidden), bound)
        self.state_kernel = uniform_network(keys[1], (hidden, 4 * hidden), bound)
        self.bias = uniform_network(keys[2], (4 * hidden,), bound)

    def __call__(self, x_PxI: Float[Array, "P I"], *, reverse: bool) -> Float[Array, "P H"]:
        """The hidden state at every position."""
        state_kernel = self.state_kernel[...]
        from_input = x_PxI @ self.input_kernel[...] + self.bias[...][None]
        zeros = jnp.zeros(state_kernel.shape[0], from_input.dtype)

        def step(carry: tuple[Array, Array], gates: Array) -> tuple[tuple[Array, Array], Array]:
            hidden, cell = carry
            parts = jnp.split(gates + hidden @ state_kernel, 4)
            enter, forget, leave = (jax.nn.sigmoid(parts[i]) for i in (0, 1, 3))
            cell = forget * cell + enter * jnp.tanh(parts[2])
            hidden = leave * jnp.tanh(cell)
            return (hidden, cell), hidden

        return jax.lax.scan(step, (zeros, zeros), from_input, reverse=reverse)[1]


class BidirectionalLSTM(nnx.Module):
    """An LSTM in either direction, side by side.

    Args:
        n_in: inputs.
        hidden: H of each direction.
        key: of the start.
    """

    def __init__(self, n_in: int, hidden: int, *, key: jax.Array):
        forward_key, backward_key = jax.random.split(key)
        self.forward = LSTMDirection(n_in, hidden, key=forward_key)
        self.backward = LSTMDirection(n_in, hidden, key=backward_key)

    def __call__(self, x_PxI: Float[Array, "P I"]) -> Float[Array, "P 2*H"]:
        """The hidden states at every position, forward first."""
        directions = self.forward(x_PxI, reverse=False), self.backward(x_PxI, reverse=True)
        return jnp.concatenate(directions, axis=1)


class LSTMEncoder(Reparameterization):
    """P-tuning with an LSTM: two bidirectional layers and two dense ones over a table of inputs.

    The table starts as `--prompt.init` says (released codes: at random), the prompt as what the
    network makes of it.

    Parameters: P D + 8 H (D + H + 1) + 8 H (3 H + 1) + (4 H H + 2 H) + (2 H D + D).

    Args:
        vectors: float32 `[P, D]`, how the table starts.
        hidden: H; PEFT's default is D.
        key: of the network's start, which is torch's.

    References:
        Liu et al. 2021, "GPT Understands, Too", section 3.2; PEFT's `PromptEncoder`, whose module
        gives the same with the same weights.
    """

    def __init__(self, vectors: Float[Array, "P D"], hidden: int, *, key: jax.Array):
        width = vectors.shape[1]
        keys = jax.random.split(key, 4)
        self.table = Prompt(vectors)
        self.first = BidirectionalLSTM(width, hidden, key=keys[0])
        self.second = BidirectionalLSTM(2 * hidden, hidden, key=keys[1])
        self.inner = Dense(2 * hidden, 2 * hidden, key=keys[2])
        self.outer = Dense(2 * hidden, width, key=keys[3])

    @property
    def vectors(self) -> Float[Array, "P D"]:
        """What LSTM and dense layers make of the table."""
        h = self.second(self.first(self.table[...]))
        return self.outer(jax.nn.relu(self.inner(h)))
