"""Our side of the prediction benchmark, in a process of its own: a `Predictor` as people use it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softprompt_jax.benchmarks.worker import Answerer, peak_memory_bytes, serve
from softprompt_jax.inference.batching import padded_length
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.models import load_model
from softprompt_jax.prompts.soft_prompt import SoftPrompt


def start(setup: dict[str, Any]) -> tuple[dict[str, Any], Answerer]:
    """Loads, compiles every shape, and says what there is to say about it.

    Args:
        setup: the `folder` of the handover; `texts`, of which row i has prompt i mod `prompts`;
            `prompts`, their number, beside which the folder has one more; `choices`;
            `max_new_tokens`; and `batch_size`.
    """
    folder, texts = Path(setup["folder"]), setup["texts"]
    compilations = count_compilations()
    vectors = np.load(folder / "prompts.npy")
    *prompts, another = (SoftPrompt(jnp.asarray(prompt)) for prompt in vectors)
    predictor = Predictor(
        load_model(str(folder / "model")),
        {f"task {i}": prompt for i, prompt in enumerate(prompts)},
        batch_size=setup["batch_size"],
    )

    def answer(work: str, rows: Sequence[int], names: str | list[str]) -> list[Any]:
        inputs = [texts[i] for i in rows]
        if work == "classification":
            return predictor.score(inputs, setup["choices"], names).tolist()
        return predictor.generate(inputs, names, setup["max_new_tokens"])

    def run(work: str, rows: Sequence[int]) -> dict[str, Any]:
        started = time.perf_counter()
        answers = answer(work, rows, [f"task {i % len(prompts)}" for i in rows])
        return {"seconds": time.perf_counter() - started, "answers": answers}

    shapes = one_row_a_shape(predictor, texts)
    compile_seconds = 0.0
    for work in ("classification", "generation"):
        first = run(work, shapes)["seconds"]
        compile_seconds += max(0.0, first - run(work, shapes)["seconds"])

    def measure(message: dict[str, Any]) -> dict[str, Any]:
        if message["work"] == "another prompt":
            before, started = len(compilations), time.perf_counter()
            predictor.add("another", another)
            answer("classification", message["rows"], "another")
            return {
                "seconds": time.perf_counter() - started,
                "compilations": len(compilations) - before,
            }
        done = run(message["work"], message["rows"])
        return done | {"peak_memory_bytes": peak_memory_bytes()}

    about = {
        "software": f"jax {jax.__version__}",
        "device": f"{len(jax.local_devices())} {jax.default_backend()} device(s)",
        "compile_seconds": compile_seconds,
        "compilations": len(compilations),
    }
    return about, measure


def count_compilations() -> list[float]:
    """A list that grows by the seconds of every compilation in this process from now on."""
    seconds: list[float] = []

    def note(event: str, duration_secs: float, **_: Any) -> None:
        # Once for each executable that is asked of the backend, even if it is in a cache on disk.
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)
    return seconds


def one_row_a_shape(predictor: Predictor, texts: Sequence[str]) -> list[int]:
    """Rows with a text of each padded length, at least as many as fill a batch."""
    longest = predictor.model.config.max_positions
    widths = [padded_length(length, longest) for length in predictor.input_lengths(texts)]
    rows = list({width: row for row, width in enumerate(widths)}.values())
    return rows + [rows[0]] * (predictor.batch_size - len(rows))


if __name__ == "__main__":
    serve(start)
