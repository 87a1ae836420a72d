"""What a command says of a finished run."""

from softprompt_jax.training.workdir import TrainResult


def report(result: TrainResult, model: str) -> str:
    """The figures, the folder, and how to use what was trained."""
    lines = [f"{name}: {value:.4f}" for name, value in sorted(result.metrics.items(), reverse=True)]
    lines.append(f"best step: {result.best_step}")
    if result.examples_per_second is not None:
        lines.append(f"steady training speed: {result.examples_per_second:.1f} examples/s")
    lines.append(f"time: {result.seconds / 60:.1f} minutes")
    lines.append(f"folder: {result.workdir}")
    if result.best_prompt is not None:
        task = str(result.best_prompt.card["task"])
        labels = list(result.best_prompt.card["labels"])
        best = str(result.workdir / "best")
        lines += [
            "Use the prompt from Python:",
            f"  predictor = softprompt_jax.Predictor.load({model!r}, {{{task!r}: {best!r}}})",
            f"  predictor.score([text], {labels!r})"
            if labels
            else "  predictor.generate([text], max_new_tokens=32)",
        ]
    else:
        lines.append(
            f"Load the tuned model: softprompt_jax.load_model({str(result.workdir / 'best')!r})"
        )
    return "\n".join(lines)
