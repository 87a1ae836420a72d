"""Our side of the training benchmark, in a process of its own: the steps that a run takes."""

import time
from typing import Any

import jax
import numpy as np

from softprompt_jax.benchmarks.rounds import Round
from softprompt_jax.benchmarks.worker import Answerer, peak_memory_bytes, serve
from softprompt_jax.config import RunConfig
from softprompt_jax.data import BatchStream, assemble_batch
from softprompt_jax.data.preparation import prepare_data
from softprompt_jax.models import resolve_model
from softprompt_jax.training import parallel
from softprompt_jax.training.setup import prepare_step, resolve_dtype, tasks_from_options


def start(setup: dict[str, Any]) -> tuple[dict[str, Any], Answerer]:
    """Loads, compiles every shape, and says what there is to say about it.

    Args:
        setup: `config` as JSON text.
    """
    config = RunConfig.from_json(setup["config"])
    options = config.train
    devices = parallel.local_devices(
        config.parallel.devices, options.batch_size, options.accumulation
    )
    files = resolve_model(config.model.name)
    tasks = tasks_from_options(config.task)
    tokenizer = files.load_tokenizer()
    data = prepare_data(config, tasks, [], tokenizer, files.config)
    examples = data.examples
    stream = BatchStream(examples, data.shapes, options.batch_size, config.seed, mixing=data.mixing)

    model = files.load(resolve_dtype(config))
    _, _, frozen, state, train_step = prepare_step(config, model, tasks, devices)

    def run(batches: list[tuple[Any, np.ndarray]]) -> float:
        """Trains on batches as the training loop does; the wall time in seconds."""
        nonlocal state
        unread = None
        started = time.perf_counter()
        for shape, rows in batches:
            batch = assemble_batch(examples, rows, shape)
            state, metrics = train_step(state, frozen, parallel.shard_rows(batch, len(devices)))
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

    def measure(message: dict[str, Any]) -> dict[str, Any]:
        batches = [epoch[i] for i in message["batches"]]
        return vars(
            Round(
                seconds=run(batches),
                examples=sum(len(rows) for _, rows in batches),
                tokens=sum(int(lengths[rows].sum()) for _, rows in batches),
                padded_tokens=sum(len(rows) * sum(shape) for shape, rows in batches),
                peak_memory_bytes=peak_memory_bytes(),
            )
        )

    about = {
        "software": f"jax {jax.__version__}",
        "device": f"{len(devices)} {jax.default_backend()} device(s)",
        "compile_seconds": compile_seconds,
        "dtype": resolve_dtype(config),
        "sizes": [len(rows) * sum(shape) for shape, rows in epoch],
    }
    return about, measure


if __name__ == "__main__":
    serve(start)
