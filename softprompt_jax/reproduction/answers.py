"""What prompts answer to the split that a task is scored on, without training."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softprompt_jax.config import RunConfig, TaskOptions
from softprompt_jax.evaluate import Job, generate_all, prepare, score_all
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.inference.serving_layout import serving_layout
from softprompt_jax.inference.setup import Opened
from softprompt_jax.models import resolve_model
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.reproduction.grid import scored_split
from softprompt_jax.tasks import Task
from softprompt_jax.training.setup import resolve_dtype, tasks_from_options


def open_for(config: RunConfig, prompts: Mapping[str, SoftPrompt]) -> Opened:
    """Prompts of a run's model, before its weights are read.

    Args:
        config: of the run.
        prompts: by name.
    """
    files = resolve_model(config.model.name)
    dtype = resolve_dtype(config, jax.local_devices()[0].platform)
    layout = serving_layout(config.parallel, files.config, dtype)
    batch_size = config.train.evaluate_batch_size or config.train.batch_size
    return Opened(dict(prompts), files, dtype, batch_size, layout)


def job_of(options: TaskOptions, opened: Opened) -> Job:
    """The split that a task is scored on, as what prompts are asked."""
    return prepare(options, scored_split(tasks_from_options(options)[0].splits), None, opened)


def answer(predictor: Predictor, job: Job, prompt: str) -> list[str]:
    """The answers of one prompt, in the task's words."""
    if job.said:
        picked = score_all(predictor, job, [prompt])[0].argmax(axis=1)
        return [job.task.labels[choice] for choice in picked]
    return generate_all(predictor, job, [prompt])[0]


def score_design(config: RunConfig, shots: int) -> float:
    """The score of a prompt that is a text of solved examples, in percent.

    The text's embeddings are the prompt, so this is the frozen model with examples before each
    input; nothing is trained. The examples are drawn from the training split by the run's seed. Of
    tasks with labels the likeliest one counts, however unlikely.

    Args:
        config: model, task and seed.
        shots: examples in the text.
    """
    (task,) = tasks_from_options(config.task)
    options = config.task
    if task.labels:  # as GPT-3 is asked
        options = dataclasses.replace(options, evaluation="score")
    text = design(task, options, shots, config.seed)
    opened = open_for(config, {})
    model = opened.files.load(opened.dtype, opened.layout.sharding)
    length = len(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    vectors = SoftPrompt.create(model, length, "text", text=text).vectors
    prompt = SoftPrompt(jnp.asarray(np.asarray(vectors)))  # off the layout's devices
    opened = dataclasses.replace(opened, prompts={"design": prompt})
    job = job_of(options, opened)
    predictor = Predictor(model, opened.prompts, batch_size=opened.batch_size, layout=opened.layout)
    metrics = task.evaluate(answer(predictor, job, "design"), job.references)
    return 100 * task.main_value(metrics)


def design(task: Task, options: TaskOptions, shots: int, seed: int) -> str:
    """A text of solved training examples; of tasks with labels, each label equally often.

    Args:
        task: whose examples they are.
        options: of the task.
        shots: how many.
        seed: that draws them.
    """
    pairs = [
        pair
        for example in task.split("train")
        for pair in task.text_pairs(example, options.task_prefix)
    ]
    order = np.random.default_rng(seed).permutation(len(pairs))
    chosen = [pairs[i] for i in order]
    if task.labels:
        by_label = [[pair for pair in chosen if pair[1] == label] for label in task.labels]
        chosen = [pair for round_ in zip(*by_label, strict=False) for pair in round_] or chosen
    return "".join(f"{text} {target}\n\n" for text, target in chosen[:shots])


def file_digest(path: Any) -> str:
    """16 hex digits that change with a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
