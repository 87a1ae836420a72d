import builtins
import importlib.util
import json
import statistics
import subprocess
import sys

import numpy as np
import pytest

from softprompt_jax.bench import main
from softprompt_jax.benchmarks.rounds import spread
from softprompt_jax.benchmarks.worker import Worker, peak_memory_bytes
from softprompt_jax.errors import UserError
from tests.tiny_models import make_tiny

HAS_PEFT = all(importlib.util.find_spec(name) for name in ("torch", "peft"))


@pytest.fixture
def recipe(tmp_path):
    """Builds a recipe's options for a tiny model of a family, with rows of very different lengths."""

    def build(family):
        model = make_tiny(tmp_path / family, family)
        rows = [
            {"input": "this film was " + "very " * (i % 11) + "good", "target": label}
            for i, label in enumerate(["positive", "negative"] * 20)
        ]
        data = tmp_path / "rows.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)))
        config = tmp_path / "recipe.py"
        config.write_text(
            "from softprompt_jax.config import *\n"
            f"config = RunConfig(model=ModelOptions(name={str(model)!r}),\n"
            f"    task=TaskOptions(name='films', train_file={str(data)!r},\n"
            f"        validation_file={str(data)!r}),\n"
            "    prompt=PromptOptions(length=3), train=TrainOptions(batch_size=4, max_shapes=3))\n"
        )
        return ["--config", str(config)]

    return build


def bench(*arguments):
    command = [sys.executable, "-m", "softprompt_jax.bench", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)
