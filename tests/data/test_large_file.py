"""A million rows: memory grows by the token arrays and by nothing else of the file's size."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROWS = 1_000_000
FEWER_ROWS = 100_000
TEXT = "the sky over a quiet town was grey when nobody asked why it rains"
WORDS = TEXT.split()

CHILD = """
    import json, re, sys, time
    import tokenizers
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from types import SimpleNamespace
    from softprompt_jax.data import BatchStream, plan_shapes, tokenize_pairs
    from softprompt_jax.tasks import get_task

    def peak():  # not ru_maxrss, which a process inherits from the one that started it
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

    path, small, words = sys.argv[1], sys.argv[2], sys.argv[3].split()
    vocabulary = {word: i for i, word in enumerate(["</s>", *words, ":", *map(str, range(1000))])}
    core = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=":"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    config = SimpleNamespace(eos_ids=(0,), is_encoder_decoder=False)

    began = time.monotonic()
    task = get_task("large", train_file=path, validation_file=small, evaluation="generate")
    checked = time.monotonic()
    pairs = (pair for row in task.split("train") for pair in task.text_pairs(row, False))
    examples = tokenize_pairs(pairs, tokenizer, config, 64, 16)
    tokenized, tokenized_peak = time.monotonic(), peak()
    shapes = plan_shapes(examples.input_lengths, examples.target_lengths)
    stream = BatchStream(examples, shapes, batch_size=32, seed=0)
    batches = [next(stream) for _ in range(4)]
    bucketed = time.monotonic()
    arrays = (examples.inputs, examples.input_offsets, examples.targets, examples.target_offsets)
    print(json.dumps({
        "rows": len(examples),
        "tokens": len(examples.inputs) + len(examples.targets),
        "real": int(sum(b["input_mask"].sum() + b["target_mask"].sum() for b in batches)),
        "arrays": sum(array.nbytes for array in arrays),
        "peaks": [tokenized_peak, peak()],
        "seconds": [checked - began, tokenized - checked, bucketed - tokenized],
    }))
"""


def write_rows(path, count):
    """Rows of 4 to 13 words and a number; each target comes four times in a row."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            words = [WORDS[(i + j * j) % len(WORDS)] for j in range(4 + i % 10)]
            target = f"{i // 4 % 1000} {i // 4000}"
            file.write(
                json.dumps({"input": f"{' '.join(words)} {i % 997}", "target": target}) + "\n"
            )
    return path


def measure(folder, count):
    large, small = write_rows(folder / "large.jsonl", count), write_rows(folder / "small.jsonl", 10)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(large), str(small), TEXT],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    print(count, large.stat().st_size, result)
    assert result["rows"] == count
    assert result["tokens"] == sum((4 + i % 10) + 1 + 2 + 1 for i in range(count))
    return result


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_grows_by_the_tokens_alone(tmp_path):
    fewer, more = measure(tmp_path, FEWER_ROWS), measure(tmp_path, ROWS)
    arrays = more["arrays"] - fewer["arrays"]
    tokenized, batched = (b - a for a, b in zip(fewer["peaks"], more["peaks"], strict=True))
    print(f"arrays {arrays / 1e6:.0f}, tokenised {tokenized / 1e6:.0f}, {batched / 1e6:.0f} MB")
    # Measured: 1.0 times the arrays; then 60 bytes a row for the order of an epoch and its shapes.
    assert tokenized <= 1.2 * arrays + 16e6
    assert batched <= 1.2 * arrays + 80 * (ROWS - FEWER_ROWS) + 16e6
