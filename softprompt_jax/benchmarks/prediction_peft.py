"""PEFT's side of the prediction benchmark, in a process of its own.

One model has all prompts as adapters, and every batch has rows of one task: PEFT's `forward`
ignores what adapter a row asks for, and its `generate` refuses it. There are two ways to make a
task's batches.

- Random order, as its users write it: rows as they come, padded to the longest of their batch, on
  the right to classify, where the logits of all positions are computed, and on the left to
  generate. Between prompt and text left padding shifts the text's positions, which changes the
  answers: PEFT gives the model its own positions and drops a caller's.
- Grouped by length, with all the care that its functions allow: rows of like lengths share a batch,
  only logits that are read are computed, and texts are generated in batches of equal lengths,
  which need no padding and so are answered right.

References:
    PEFT 0.21 documentation, "Prompt-based methods" and "Adapters" (`add_adapter`, `set_adapter`).
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

from softprompt_jax.benchmarks.worker import Answerer, peak_memory_bytes, serve


def start(setup: dict[str, Any]) -> tuple[dict[str, Any], Answerer]:
    """Loads what the handover wrote, and answers a few rows.

    Args:
        setup: as of our side, what the handover said, and `grouped`: whether rows of like lengths
            share a batch.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder, texts, grouped = Path(setup["folder"]), setup["texts"], setup["grouped"]
    choices = torch.tensor(setup["choice_ids"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load(folder, setup["prompts"]).to(device)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(setup["pad_id"])

    def read(rows: Sequence[int], side: str) -> Any:
        tokenizer.padding_side = side
        batch = tokenizer([texts[i] for i in rows], padding=True, return_tensors="pt")
        return {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}

    def score(rows: Sequence[int]) -> list[list[float]]:
        batch = read(rows, "right")
        prompt_length = model.active_peft_config.num_virtual_tokens
        last = prompt_length + batch["attention_mask"].sum(dim=1) - 1
        more = {}
        if grouped:
            kept, last = torch.unique(last, return_inverse=True)
            more = {"logits_to_keep": kept}
        logits = model(**batch, **more).logits[torch.arange(len(rows)), last]
        return logits.log_softmax(dim=-1)[:, choices].tolist()

    def generate(rows: Sequence[int]) -> list[str]:
        batch = read(rows, "left")
        new = setup["max_new_tokens"]
        ids = model.generate(
            **batch, max_new_tokens=new, do_sample=False, pad_token_id=setup["pad_id"]
        )
        answers = tokenizer.batch_decode(ids[:, -new:], skip_special_tokens=True)
        return [answer.strip() for answer in answers]

    def run(work: str, rows: Sequence[int]) -> dict[str, Any]:
        answers: dict[int, Any] = {}
        started = time.perf_counter()
        lengths = [len(ids) for ids in tokenizer([texts[i] for i in rows])["input_ids"]]
        for task in range(setup["prompts"]):
            model.set_adapter(f"task {task}")
            members = [
                (length, i)
                for length, i in zip(lengths, rows, strict=True)
                if i % setup["prompts"] == task
            ]
            equal = work == "generation"
            batches = cut(members, setup["batch_size"], grouped=grouped, equal=grouped and equal)
            for batch in batches:
                done = score(batch) if work == "classification" else generate(batch)
                answers |= zip(batch, done, strict=True)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "answers": [answers[i] for i in rows]}

    with torch.inference_mode():
        for work in ("classification", "generation"):  # to warm up
            run(work, range(0, len(texts), setup["prompts"])[:4])

    def measure(message: dict[str, Any]) -> dict[str, Any]:
        with torch.inference_mode():
            done = run(message["work"], message["rows"])
        return done | {"peak_memory_bytes": peak_memory_bytes()}

    about = {
        "software": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "device": f"{torch.get_num_threads()} threads" if device == "cpu" else device,
        "version": peft.__version__,
    }
    return about, measure


def load(folder: Path, prompts: int) -> Any:
    """The model with so many of the folder's prompts as adapters "task 0", "task 1", …."""
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    vectors = torch.from_numpy(np.load(folder / "prompts.npy"))

    def config() -> peft.PromptTuningConfig:
        return peft.PromptTuningConfig(
            task_type=peft.TaskType.CAUSAL_LM,
            num_virtual_tokens=vectors.shape[1],
            inference_mode=True,
        )

    model: Any = peft.get_peft_model(base, config(), adapter_name="task 0")
    for i in range(prompts):
        if i > 0:
            model.add_adapter(f"task {i}", config())
        model.prompt_encoder[f"task {i}"].embedding.weight.data.copy_(vectors[i])
    return model.eval()


def cut(
    members: Sequence[tuple[int, int]], batch_size: int, *, grouped: bool, equal: bool
) -> list[list[int]]:
    """One task's batches.

    Args:
        members: length and number of each row.
        batch_size: rows a batch at most.
        grouped: order the rows by length.
        equal: rows of one length only share a batch.
    """
    batches: list[list[tuple[int, int]]] = []
    for member in sorted(members) if grouped else members:
        last = batches[-1] if batches else []
        if not last or len(last) == batch_size or (equal and last[0][0] != member[0]):
            batches.append(last := [])
        last.append(member)
    return [[row for _, row in batch] for batch in batches]


if __name__ == "__main__":
    serve(start)
