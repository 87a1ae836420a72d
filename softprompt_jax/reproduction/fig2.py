"""Figure 2: one model and a prompt a task serve many tasks in one batch, and take little space."""

import dataclasses
from typing import Any

import numpy as np

from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.models.families import parameter_count
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.prompts.soft_prompt import TENSOR_FILE
from softprompt_jax.reproduction.answers import file_digest, job_of, open_for
from softprompt_jax.reproduction.experiment import Context, Experiment
from softprompt_jax.reproduction.figures import Told, plain_numbers
from softprompt_jax.reproduction.grid import Cell, cached_json
from softprompt_jax.reproduction.results import (
    Result,
    Row,
    Value,
    describe_data,
)
from softprompt_jax.reproduction.tab3 import points, trained_prompts

ROWS = 64
"""Inputs of each task that are answered both ways."""

QUANTITY = "quantity"
TUNED_COPIES = "bytes of a tuned model for each"
WITH_PROMPTS = "bytes of one model and a prompt for each"


def compute(context: Context) -> Result:
    """Answers mixed and apart with the prompts of table 3, and counts bytes."""
    preset = context.preset
    cells, outcomes = context.run(points(preset))
    prompts, jobs = {}, []
    for name, (cell, folders) in trained_prompts(cells, outcomes).items():
        for seed, folder in folders.items():
            # One a task; of a single task all, which stand for tasks.
            if len(preset.tasks) == 1 or not any(job_cell is cell for _, job_cell in jobs):
                prompts[f"{name}, {seed}"] = folder
                jobs.append((f"{name}, {seed}", cell))
    digests = [file_digest(folder / TENSOR_FILE) for folder in prompts.values()]
    path = context.folder / preset.name / "mixed.json"
    told = cached_json(
        path, [cells[0].config.model.name, digests, ROWS], lambda: _ask(prompts, jobs)
    )
    model = told["model_bytes"]
    mixed = told["prompt_bytes"]
    numbers = {
        "tasks": len(jobs),
        "rows answered": told["rows"],
        "answers that differ": told["different"],
        "largest difference of a log-likelihood (nats)": told["largest"],
        "bytes of the model": model,
        "bytes of a prompt": round(sum(mixed) / len(mixed)),
        TUNED_COPIES: model * len(jobs),
        WITH_PROMPTS: model + sum(mixed),
    }
    notes = [
        "Mixed: each batch has rows of all prompts. Apart: one prompt after the other.",
        f"Weights count as {told['dtype']}, prompts as their file of float32.",
    ]
    if len(preset.tasks) == 1:
        notes.append("This preset has one task; prompts of several seeds stand for several tasks.")
    return Result.of_runs(
        cells,
        outcomes,
        [Row({QUANTITY: name}, Value(number)) for name, number in numbers.items()],
        unit="see the first column",
        decimals=6,
        data=describe_data(preset),
        notes=notes,
    )


def _ask(folders: dict[str, Any], jobs: list[tuple[str, Cell]]) -> dict[str, Any]:
    """Answers both ways, as facts."""
    prompts = {name: SoftPrompt.load(folder) for name, folder in folders.items()}
    opened = open_for(jobs[0][1].config, prompts)
    predictor = opened.load()
    questions = []
    for name, cell in jobs:
        job = job_of(cell.config.task, opened)
        job = dataclasses.replace(job, texts=job.texts[:ROWS])
        questions += [(text, name, job) for text in job.texts]
    order = np.random.default_rng(0).permutation(len(questions))
    mixed = [questions[i] for i in order]
    together = _answers(predictor, mixed)
    apart: list[Any] = [None] * len(mixed)
    for name, _ in jobs:
        own = [i for i, question in enumerate(mixed) if question[1] == name]
        for i, answer in zip(own, _answers(predictor, [mixed[i] for i in own]), strict=True):
            apart[i] = answer
    different, largest = 0, 0.0
    for one, other in zip(together, apart, strict=True):
        if isinstance(one, str):
            different += one != other
        else:
            different += int(one.argmax() != other.argmax())
            largest = max(largest, float(np.abs(one - other).max()))
    width = {"float32": 4, "bfloat16": 2}[opened.dtype]
    files = [folder / TENSOR_FILE for folder in folders.values()]
    return {
        "rows": len(mixed),
        "different": different,
        "largest": largest,
        "dtype": opened.dtype,
        "model_bytes": width * parameter_count(opened.files.config),
        "prompt_bytes": [file.stat().st_size for file in files],
    }


def _answers(predictor: Predictor, questions: list[Any]) -> list[Any]:
    """Log-likelihoods of the labels where a task has them, else text."""
    answers: list[Any] = [None] * len(questions)
    scored = [i for i, (_, _, job) in enumerate(questions) if job.said]
    spoken = [i for i, (_, _, job) in enumerate(questions) if not job.said]
    if scored:
        own = [questions[i] for i in scored]
        found = predictor.score(
            [text for text, _, _ in own],
            [list(job.said) for _, _, job in own],
            [name for _, name, _ in own],
        )
        for i, each in zip(scored, found, strict=True):
            answers[i] = each
    if spoken:
        own = [questions[i] for i in spoken]
        longest = max(job.max_new_tokens for _, _, job in own)
        texts: Any = [text for text, _, _ in own]
        found = predictor.generate(texts, [name for _, name, _ in own], longest)
        for i, each in zip(spoken, found, strict=True):
            answers[i] = each
    return answers


def draw(figure: Any, told: Told) -> None:
    """Bytes by number of tasks, both ways."""
    axes = figure.subplots()
    numbers = {row["coordinates"][QUANTITY]: row["ours"]["mean"] for row in told["rows"]}
    model, prompt = numbers["bytes of the model"], numbers["bytes of a prompt"]
    tasks = [1, 10, 100, 1000, 10_000]
    for way, each, once, style in (
        ("a tuned model for each task", model, 0, "o-"),
        ("one model and a prompt for each task", prompt, model, "s-"),
    ):
        axes.plot(tasks, [(once + count * each) / 1e6 for count in tasks], style, label=way)
    axes.set(xscale="log", yscale="log", xlabel="tasks", ylabel="storage (MB)")
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    axes.legend()
    axes.grid(alpha=0.3)


EXPERIMENT = Experiment(
    name="fig2",
    title="Many tasks, one model",
    item="figure 2",
    finding="One frozen model serves all tasks in mixed batches; a task takes a prompt of 20,480 "
    "to 409,600 numbers and not a copy of 11 billion.",
    compute=compute,
    draw=draw,
)
