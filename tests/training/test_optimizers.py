import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from softprompt_jax.config import OptimizerOptions
from softprompt_jax.training.optimizers import make_optimizer, make_schedule


def published_adafactor(parameter, gradients, *, step_offset=0, weight_decay=1e-5, factored=False):
    """Adafactor as published (Shazeer and Stern 2018, algorithms 4 and 5) with T5X's choices.

    Transcribed from the paper and from what T5X does about decay: constant rate 0.3, relative
    update clipped to RMS 1, no parameter scaling, no momentum, decay not scaled by the rate.
    """
    parameter = parameter.astype(np.float64)
    row = column = full = 0.0
    history = []
    for i, gradient in enumerate(gradients):
        gradient = gradient.astype(np.float64)
        t = step_offset + i + 1
        beta = 1.0 - t**-0.8
        square = gradient**2 + 1e-30
        if factored:
            row = beta * row + (1 - beta) * square.mean(axis=1)
            column = beta * column + (1 - beta) * square.mean(axis=0)
            second_moment = np.outer(row, column) / row.mean()
        else:
            full = beta * full + (1 - beta) * square
            second_moment = full
        update = gradient / np.sqrt(second_moment)
        update = update / max(1.0, np.sqrt((update**2).mean()))
        parameter = (1 - weight_decay) * parameter - 0.3 * update
        history.append(parameter)
    return history


@pytest.mark.parametrize(
    ("shape", "factored", "step_offset"),
    [((20, 64), False, 0), ((100, 576), False, 0), ((150, 256), True, 0), ((20, 64), False, 1000)],
)
def test_lester_adafactor_is_the_published_update(shape, factored, step_offset):
    rng = np.random.default_rng(0)
    start = rng.normal(size=shape).astype(np.float32) * 10
    # Gradients that shrink, so that the moving average and the clipping both matter.
    gradients = [
        (rng.normal(size=shape) * 3.0 ** (-i)).astype(np.float32) * 1e-2 for i in range(20)
    ]
    options = OptimizerOptions(step_offset=step_offset)
    optimizer = make_optimizer(options, "prompt_tuning", steps=20)
    parameter = jnp.asarray(start)
    state = optimizer.init(parameter)
    expected = published_adafactor(start, gradients, step_offset=step_offset, factored=factored)
    for gradient, want in zip(gradients, expected, strict=True):
        updates, state = optimizer.update(jnp.asarray(gradient), state, parameter)
        parameter = optax.apply_updates(parameter, updates)
        np.testing.assert_allclose(parameter, want, rtol=2e-6, atol=2e-5)


def test_factored_second_moment_is_small():
    optimizer = make_optimizer(OptimizerOptions(), "prompt_tuning", steps=1)
    sizes = {
        length: sum(x.size for x in jax.tree.leaves(optimizer.init(jnp.zeros((length, 512)))))
        for length in (100, 150)
    }
    assert sizes[100] > 100 * 512
    assert sizes[150] < 2 * (150 + 512)


def test_schedules():
    def rates(**options):
        schedule = make_schedule(OptimizerOptions(**options), "prompt_tuning", 10)
        return [float(schedule(step)) for step in range(10)]

    assert rates() == pytest.approx([0.3] * 10)
    linear = rates(schedule="linear", learning_rate=1.0)
    assert linear == pytest.approx([1 - i / 10 for i in range(10)])
    cosine = rates(schedule="cosine", learning_rate=1.0)
    assert cosine == pytest.approx([(1 + np.cos(np.pi * i / 10)) / 2 for i in range(10)], abs=1e-6)
    warm = rates(warmup_steps=4, learning_rate=1.0)
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1.0, 1, 1, 1, 1, 1, 1])
    assert rates(warmup_steps=1, learning_rate=1.0) == pytest.approx([1.0] * 10)
    root = rates(schedule="inverse_sqrt", warmup_steps=4, learning_rate=1.0)
    assert root == pytest.approx([0.25, 0.5, 0.75, 1.0, *((4 / n) ** 0.5 for n in range(4, 10))])


def test_model_tuning_has_the_papers_rate():
    assert float(make_schedule(OptimizerOptions(), "model_tuning", 10)(0)) == pytest.approx(1e-3)


@pytest.mark.usefixtures("standard_promotion")
def test_adamw_is_the_published_update():
    options = OptimizerOptions(name="adamw", learning_rate=0.1, weight_decay=0.01)
    optimizer = make_optimizer(options, "prompt_tuning", steps=20)
    rng = np.random.default_rng(1)
    start = rng.normal(size=(4, 8)).astype(np.float32)
    parameter, want = jnp.asarray(start), start.astype(np.float64)
    state, m, v = optimizer.init(parameter), 0.0, 0.0
    for t in range(1, 21):
        gradient = rng.normal(size=start.shape).astype(np.float32)
        updates, state = optimizer.update(jnp.asarray(gradient), state, parameter)
        parameter = optax.apply_updates(parameter, updates)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient.astype(np.float64) ** 2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        want = want - 0.1 * (step + 0.01 * want)
        np.testing.assert_allclose(parameter, want, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("standard_promotion")
def test_gradient_norm_clipping_happens_first():
    options = OptimizerOptions(name="adamw", learning_rate=1.0, max_gradient_norm=1.0)
    optimizer = make_optimizer(options, "prompt_tuning", steps=1)
    parameter = jnp.zeros((2,))
    _, state = optimizer.update(jnp.asarray([30.0, 40.0]), optimizer.init(parameter), parameter)
    moments = [x for x in jax.tree.leaves(state) if x.shape == (2,)]
    np.testing.assert_allclose(moments[0], [0.06, 0.08], rtol=1e-6)
