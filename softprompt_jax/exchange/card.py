"""The model card: README.md of a repository that PEFT and this package both read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from softprompt_jax.models.hub import looks_like_hub_id
from softprompt_jax.models.loading import BUILT_IN, OWN
from softprompt_jax.prompts.soft_prompt import SoftPrompt
from softprompt_jax.prompts.unfolded_prompt import AnyTrainedPrompt

_PEFT_CLASSES = {
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
}


def model_card(
    prompt: AnyTrainedPrompt,
    config: Mapping[str, Any],
    *,
    repo_id: str = "FOLDER",
    license: str = "unknown",
    neighbours: Sequence[Sequence[str]] = (),
) -> str:
    """Task, scores, base model, licence and how to use the prompt, as Markdown.

    Args:
        prompt: whose card tells the facts; what it lacks is left out.
        config: the adapter's configuration, as `adapter_config.make_config` gives it.
        repo_id: "owner/name", or the folder that the lines of code are to name.
        license: the hub's name of the licence, such as "apache-2.0".
        neighbours: for each position the nearest words of the vocabulary, nearest first.

    Returns:
        Text with the hub's YAML header. Facts stand in it as code, so that nothing on the prompt's
        card is read as Markdown or HTML.
    """
    card = prompt.card
    base = config["base_model_name_or_path"]
    data = ModelCardData(
        license=license,
        library_name="peft",
        base_model=base if on_the_hub(base) else None,
        tags=["soft-prompt", "prompt-tuning", "softprompt-jax"],
    )
    task = card.get("task")
    title = f"Soft prompt for {_code(task)}" if isinstance(task, str) and task else "Soft prompt"
    facts = {
        "base model": base,
        "task": task,
        "labels": card.get("labels"),
        "started from": card.get("init"),
        "training step": card.get("step"),
        "seed": card.get("seed"),
    }
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {title}",
        _describe(prompt),
        _table(
            ("", ""),
            [(name, _told(value)) for name, value in facts.items() if value not in (None, "", [])],
        ),
    ]
    ours = base
    if (trained_on := card.get("model")) in list(BUILT_IN):
        ours = trained_on
        parts.append(
            f"It was trained on {_code(trained_on)}, a 4-bit copy of the base model; the base model"
            " itself answers slightly otherwise."
        )
    if base in OWN:
        parts.append(
            f"{_code(base)} comes with the package softprompt-jax and is not on the hub: for PEFT "
            "load it by transformers from the installed package's folder "
            f"`softprompt_jax/models/pretrained/{base}`, and put the prompt on it by "
            "`PeftModel.from_pretrained`."
        )
    if scores := _scores(card.get("metrics")):
        parts += ["## Scores", _table(("metric", "value"), scores)]
    parts += ["## Use", _use(repo_id, ours, config["task_type"])]
    if neighbours:
        rows = [
            (str(position), " ".join(map(_code, words)))
            for position, words in enumerate(neighbours)
        ]
        parts += [
            "## Nearest words",
            "Words of the vocabulary whose embeddings are nearest to each position by cosine.",
            _table(("position", "words"), rows),
        ]
    return "\n\n".join(parts) + "\n"


def _describe(prompt: AnyTrainedPrompt) -> str:
    if not isinstance(prompt, SoftPrompt):
        return (
            f"Keys and values of {prompt.length} virtual tokens in every layer, trained for the "
            "frozen model below by prefix tuning (Li and Liang 2021,"
            " [arXiv:2101.00190](https://arxiv.org/abs/2101.00190))."
        )
    return (
        f"{prompt.length} virtual tokens of width {prompt.vectors.shape[1]}, trained for the frozen"
        " model below by prompt tuning (Lester, Al-Rfou, Constant 2021,"
        " [arXiv:2104.08691](https://arxiv.org/abs/2104.08691))."
    )


def _use(repo_id: str, model_name: Any, task_type: str) -> str:
    name, model = (json.dumps(text, ensure_ascii=False) for text in (repo_id, str(model_name)))
    peft_class = _PEFT_CLASSES[task_type]
    return (
        "With softprompt_jax:\n\n"
        "```python\n"
        "import softprompt_jax as sp\n"
        f'predictor = sp.Predictor(sp.load_model({model}), {{"prompt": sp.import_peft({name})}})\n'
        "```\n\n"
        "With PEFT, whose inputs should be padded on the right or not at all (it puts the prompt "
        "before the padding):\n\n"
        "```python\n"
        f"from peft import {peft_class}\n"
        f"model = {peft_class}.from_pretrained({name})\n"
        "```"
    )


def _scores(metrics: Any) -> list[tuple[str, str]]:
    if not isinstance(metrics, Mapping):
        return []
    numbers = sorted((k, v) for k, v in metrics.items() if type(v) in (int, float))
    return [(_code(k), _code(f"{v:.4f}" if type(v) is float else v)) for k, v in numbers]


def on_the_hub(name: Any) -> bool:
    """Whether others find a model by this name: a hub id, no folder here and none of our own."""
    if not isinstance(name, str) or name in OWN or Path(name).exists():
        return False
    return looks_like_hub_id(name)


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {left} | {right} |" for left, right in lines)


def _told(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_code, value))
    return _code(value)


def _code(value: Any) -> str:
    """A value as code on one line of a table, whatever it holds."""
    text = " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")
    return f"`{text}`" if text else "` `"
