"""PEFT's side of the training benchmark, as its users write it, in a process of its own.

The loop is that of PEFT's prompt tuning guide: AdamW, batches padded to their longest row by
transformers' collator, `loss.backward()`.

References:
    PEFT 0.21 documentation, "Prompt-based methods".
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler

from softprompt_jax.benchmarks.rounds import Round
from softprompt_jax.benchmarks.worker import Answerer, peak_memory_bytes, serve
from softprompt_jax.data import TokenizedExamples

IGNORED = -100  # the label that torch's cross-entropy leaves out


def start(setup: dict[str, Any]) -> tuple[dict[str, Any], Answerer]:
    """Loads what `handover` wrote, wraps it and takes a few steps.

    Args:
        setup: `folder`, what the handover said of it, and `grouped`: whether rows of like lengths
            share a batch. With `batches`, the rows of each, and `shape`, the tokens that inputs
            and targets are padded to, these are what it trains on.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = Path(setup["folder"])
    seq2seq = setup["encoder_decoder"]
    torch.manual_seed(setup["seed"])

    auto = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    base = auto.from_pretrained(
        folder / "model",
        config=without_dropout(folder / "model"),
        dtype=getattr(torch, setup["dtype"]),
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = peft.get_peft_model(
        base,
        peft.PromptTuningConfig(
            task_type=peft.TaskType.SEQ_2_SEQ_LM if seq2seq else peft.TaskType.CAUSAL_LM,
            num_virtual_tokens=setup["prompt_length"],
        ),
    ).to(device)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)

    with np.load(folder / "tokens.npz") as arrays:
        examples = TokenizedExamples(**arrays)
    features = as_features(examples, seq2seq)
    # Of what is padded apart: a causal model's input and target are one text.
    lengths = np.stack([examples.input_lengths, examples.target_lengths], axis=1)
    if not seq2seq:
        lengths = lengths.sum(axis=1, keepdims=True)
    if batches := setup.get("batches"):
        shape = setup["shape"] if seq2seq else [sum(setup["shape"])] * 2
        padded = [len(rows) * sum(setup["shape"]) for rows in batches]
        collate = partial(pad, pad_id=setup["pad_id"], shape=shape)
    else:
        batches = cut(lengths[:, 0].tolist(), setup["batch_size"], setup["grouped"], setup["seed"])
        padded = [len(rows) * int(lengths[rows].max(axis=0).sum()) for rows in batches]
        collate = make_collator(folder / "model", setup["pad_id"])

    def run(batches: Sequence[list[int]]) -> float:
        """Trains on batches; the wall time in seconds."""
        loader = DataLoader(features, batch_sampler=batches, collate_fn=collate)  # type: ignore
        started = time.perf_counter()
        for batch in loader:
            loss = model(**batch.to(device)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()  # users log it
        return time.perf_counter() - started

    by_size = np.argsort(padded)
    run([batches[by_size[i]] for i in (-1, 0, len(batches) // 2)])  # to warm up

    def measure(message: dict[str, Any]) -> dict[str, Any]:
        chosen = message["batches"]
        return vars(
            Round(
                seconds=run([batches[i] for i in chosen]),
                examples=sum(len(batches[i]) for i in chosen),
                tokens=sum(int(lengths[batches[i]].sum()) for i in chosen),
                padded_tokens=sum(padded[i] for i in chosen),
                peak_memory_bytes=peak_memory_bytes(),
            )
        )

    about = {
        "software": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "device": f"{torch.get_num_threads()} threads" if device == "cpu" else device,
        "version": peft.__version__,
        "sizes": padded,
    }
    return about, measure


def without_dropout(folder: Path) -> Any:
    """The configuration of transformers' model in `folder`, with no dropout, as our side trains.

    T5's and GPT-2's own have a tenth, which costs time.
    """
    config = transformers.AutoConfig.from_pretrained(folder)
    for name in ("dropout_rate", "attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


Feature = dict[str, list[int]]


def as_features(examples: TokenizedExamples, seq2seq: bool) -> list[Feature]:
    """The rows as a PEFT user prepares them: for causal models input and target in one text."""
    rows = []
    for i in range(len(examples)):
        inputs = examples.inputs[examples.input_offsets[i] : examples.input_offsets[i + 1]].tolist()
        target = examples.targets[
            examples.target_offsets[i] : examples.target_offsets[i + 1]
        ].tolist()
        if not seq2seq:
            inputs, target = inputs + target, [IGNORED] * len(inputs) + target
        rows.append({"input_ids": inputs, "attention_mask": [1] * len(inputs), "labels": target})
    return rows


def cut(lengths: list[int], batch_size: int, grouped: bool, seed: int) -> list[list[int]]:
    """One epoch's full batches: in random order, or grouped by length as transformers does it."""
    generator = torch.Generator().manual_seed(seed)
    if grouped:
        order = list(LengthGroupedSampler(batch_size, lengths=lengths, generator=generator))
    else:
        order = torch.randperm(len(lengths), generator=generator).tolist()
    if len(order) < batch_size:
        order = np.resize(order, batch_size).tolist()
    full = len(order) // batch_size * batch_size
    return [order[i : i + batch_size] for i in range(0, full, batch_size)]


def make_collator(model_folder: Path, pad_id: int) -> Callable[[list[Feature]], Any]:
    """Transformers' collator: rows padded to the longest of their batch, on the right.

    It asks for a tokenizer; where the folder has none, `pad` does the same.
    """
    if not (model_folder / "tokenizer_config.json").is_file():
        return partial(pad, pad_id=pad_id)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder, padding_side="right")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    return transformers.DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)


def pad(
    features: Sequence[Feature], pad_id: int, shape: Sequence[int] | None = None
) -> transformers.BatchEncoding:
    """Rows padded on the right: to the longest, or inputs and labels to a given shape."""
    values = {"input_ids": pad_id, "attention_mask": 0, "labels": IGNORED}
    batch = {}
    for name, value in values.items():
        rows = [feature[name] for feature in features]
        width = max(map(len, rows)) if shape is None else shape[name == "labels"]
        batch[name] = torch.tensor([row + [value] * (width - len(row)) for row in rows])
    return transformers.BatchEncoding(batch)


if __name__ == "__main__":
    serve(start)
