"""Our side of the training benchmark, in a process of its own: the steps that a run takes."""

import time
from typing import Any

import jax
import numpy as np

from softprompt_jax.benchmarks.matmul import layer_widths
from softprompt_jax.benchmarks.rounds import Round
from softprompt_jax.benchmarks.worker import Answerer, peak_memory_bytes, serve
from softprompt_jax.benchmarks.workload import Workload, prepare
from softprompt_jax.config import RunConfig
from softprompt_jax.data import BatchStream, assemble_batch
from softprompt_jax.training.flops import run_step_flops
from softprompt_jax.training.setup import prepare_step, resolve_dtype, run_layout


def start(setup: dict[str, Any]) -> tuple[dict[str, Any], Answerer]:
    """Loads, compiles every shape, and says what there is to say about it.

    Args:
        setup: `config` as JSON text, and `workload` by field.
    """
    config = RunConfig.from_json(setup["config"])
    options = config.train
    material = prepare(config, Workload(**setup["workload"]))
    model_config, examples = material.model_config, material.examples
    stream = BatchStream(
        examples, material.shapes, options.batch_size, config.seed, mixing=material.mixing
    )

    layout = run_layout(config, model_config)
    model = material.load(layout, layout.platform)
    _, _, frozen, state, train_step = prepare_step(config, model, material.tasks, layout)

    def run(batches: list[tuple[Any, np.ndarray]]) -> float:
        """Trains on batches as the training loop does; the wall time in seconds."""
        nonlocal state
        unread = None
        started = time.perf_counter()
        for shape, rows in batches:
            batch = assemble_batch(examples, rows, shape)
            state, metrics = train_step(state, frozen, layout.place_rows(batch, options.batch_size))
            if unread is not None:
                jax.device_get(unread)
            unread = metrics
        jax.device_get(unread)
        return time.perf_counter() - started

    epoch = [stream.rows(position) for position in range(stream.batches_per_epoch)]
    compile_seconds = 0.0
    for shape in {shape: None for shape, _ in epoch}:
        batch = next(batch for batch in epoch if batch[0] == shape)
        first = run([batch])
        compile_seconds += max(0.0, first - run([batch]))

    lengths = examples.input_lengths + examples.target_lengths
    prompt_length = config.prompt.length if options.method == "prompt_tuning" else 0

    def measure(message: dict[str, Any]) -> dict[str, Any]:
        batches = [epoch[i] for i in message["batches"]]
        return vars(
            Round(
                seconds=run(batches),
                examples=sum(len(rows) for _, rows in batches),
                tokens=sum(int(lengths[rows].sum()) for _, rows in batches),
                padded_tokens=sum(len(rows) * sum(shape) for shape, rows in batches),
                flops=sum(run_step_flops(config, model_config, shape) for shape, _ in batches),
                peak_memory_bytes=peak_memory_bytes(),
            )
        )

    sizes = [len(rows) * sum(shape) for shape, rows in epoch]
    middle = int(np.median(sizes)) + options.batch_size * prompt_length
    # A CPU's devices share its cores.
    devices = 1 if layout.platform == "cpu" else len(layout.devices)
    about = {
        "software": f"jax {jax.__version__}",
        "device": str(layout),
        "compile_seconds": compile_seconds,
        "dtype": resolve_dtype(config, layout.platform),
        "sizes": sizes,
        "batches": [rows.tolist() for _, rows in epoch],
        "shape": list(epoch[0][0]),  # that all batches have where padding is equal
        "devices": devices,
        # For the matmul limit: the positions that a layer of one device sees at a time.
        "matmul": {
            "rows": max(1, middle // devices),
            "d_model": model_config.d_model,
            "widths": layer_widths(model_config),
            "dtype": resolve_dtype(config, layout.platform),
        },
    }
    return about, measure


if __name__ == "__main__":
    serve(start)
