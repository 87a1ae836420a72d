"""What a command says of a finished run."""

import json

from softprompt_jax.prompts.prompt_folders import CONTENTS
from softprompt_jax.training.workdir import TrainResult


def report(result: TrainResult, model: str) -> str:
    """The figures, the folder, and how to use what was trained."""
    lines = [f"{name}: {value:.4f}" for name, value in sorted(result.metrics.items(), reverse=True)]
    lines.append(f"best step: {result.best_step}")
    if result.examples_per_second is not None:
        lines.append(f"steady training speed: {result.examples_per_second:.1f} examples/s")
    lines.append(f"time: {result.seconds / 60:.1f} minutes")
    lines.append(f"folder: {result.workdir}")
    best = result.workdir / "best"
    if result.best_prompt is not None:
        task = str(result.best_prompt.card["task"])
        labels = list(result.best_prompt.card["labels"])
        lines += [
            "Use the prompt from Python:",
            f"  predictor = softprompt_jax.Predictor.load({model!r}, {{{task!r}: {str(best)!r}}})",
            f"  predictor.score([text], {labels!r})"
            if labels
            else "  predictor.generate([text], max_new_tokens=32)",
        ]
    elif (best / CONTENTS).is_file():  # a prompt for each task
        names = json.loads((best / CONTENTS).read_text(encoding="utf-8"))
        folders = {task: str(best / name) for task, name in names.items()}
        lines += [
            "Use the prompts from Python:",
            f"  predictor = softprompt_jax.Predictor.load({model!r}, {folders!r})",
            f"  predictor.generate([text], {[next(iter(folders))]!r}, max_new_tokens=32)",
        ]
    else:
        lines.append(f"Load the tuned model: softprompt_jax.load_model({str(best)!r})")
    return "\n".join(lines)
