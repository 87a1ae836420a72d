"""A file of 20,000 rows over eight prompts, 50 of them bad; killed half-way and started again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from lively_models import make_lively, random_prompt
from tiny_models import WORDS

from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.prompts import SoftPrompt

ROWS, BAD = 20_000, 50
CHUNK = 32 * 64
LABELS = [["negative", "positive"]] * 3 + [["yes", "no", "neutral"]] * 3 + [[], []]
BROKEN = [
    b'{"text": "the film", "prompt": "p0"\n',
    b'{"text": "caf\xe9", "prompt": "p0"}\n',
    b'{"text": "the film", "prompt": "p8", "id": 1}\n',
    b'{"text": 17, "prompt": "p1"}\n',
    b'{"text": "the film", "prompt": "p2", "choices": [1, 2]}\n',
    b'["the film", "p3"]\n',
    b'{"text": "' + b"the film " * 40 + b'", "prompt": "p4"}\n',
    b'{"text": "' + b"the film " * 40 + b'", "prompt": "p6"}\n',
    b'{"text": "the film", "prompt": "p5", "choices": ["good", " good"]}\n',
    b"\x00\n",
]


def make_rows():
    """The file's lines, and the rows that are good by their line's number."""
    generator = np.random.default_rng(0)
    bad = generator.choice(ROWS, BAD, replace=False) + 1
    lines, good = [], {}
    for number in range(1, ROWS + 1):
        place = np.flatnonzero(bad == number)
        if place.size:
            lines.append(BROKEN[place[0] % len(BROKEN)])
            continue
        words = generator.choice(WORDS[17:], generator.integers(1, 9)).tolist()
        good[number] = {
            "text": " ".join(words),
            "prompt": f"p{generator.integers(8)}",
            "id": number * 7,
        }
        lines.append(json.dumps(good[number]).encode() + b"\n")
    return b"".join(lines), sorted(bad.tolist()), good


def start(folder, output):
    prompts = ",".join(f"p{i}={folder / f'p{i}'}" for i in range(8))
    arguments = ["--prompts", prompts, "--input", folder / "rows.jsonl", "--output", output]
    options = "--batch-size 64 --max-new-tokens 2 --max-input-length 32 --temperature 1.5"
    return subprocess.Popen(
        [sys.executable, "-m", "softprompt_jax.predict", *map(str, arguments), *options.split()],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CI": "1", "JAX_PLATFORMS": "cpu"},
    )


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    model = make_lively(tmp_path / "model", "gpt2", n_layer=1)
    prompts = {}
    for i, labels in enumerate(LABELS):
        card = {"model": str(model), "labels": labels}
        prompts[f"p{i}"] = SoftPrompt(jnp.asarray(random_prompt(2 + i, i)), card)
        prompts[f"p{i}"].save(tmp_path / f"p{i}")
    data, bad, good = make_rows()
    (tmp_path / "rows.jsonl").write_bytes(data)

    # Killed as soon as half of the rows are there, and again soon after that.
    output, partial = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.partial"
    for _ in range(2):
        enough = max(ROWS // 2, lines_in(partial) + 1)
        process = start(tmp_path, output)
        while lines_in(partial) < enough and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        _, err = process.communicate()
        assert process.returncode == -9, err
        assert not output.exists()
    left = lines_in(partial)
    assert enough <= left < ROWS
    # What a kill in the middle of writing leaves.
    with partial.open("ab") as file:
        file.write(b'{"line": 99999, "prompt"')
    process = start(tmp_path, output)
    _, err = process.communicate()
    assert process.returncode == 3, err
    assert f"Going on after {left - left % CHUNK} rows." in err
    assert f"{BAD} of {ROWS} rows could not be answered" in err
    assert f"(lines {', '.join(map(str, bad[:5]))}, …)" in err
    assert not partial.exists()

    # The same as without the kill.
    process = start(tmp_path, tmp_path / "whole.jsonl")
    _, err = process.communicate()
    assert process.returncode == 3, err
    assert "Going on" not in err
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()

    # Every row once and in order; the bad ones told, the good ones answered by their own prompt.
    answers = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert [answer["line"] for answer in answers] == list(range(1, ROWS + 1))
    assert [answer["line"] for answer in answers if "error" in answer] == bad
    for number, row in good.items():
        answer = answers[number - 1]
        assert (answer["id"], answer["prompt"]) == (row["id"], row["prompt"])
        labels = LABELS[int(row["prompt"][1:])]
        assert list(answer.get("scores", [])) == labels
        assert isinstance(answer["prediction"], str)
        assert not labels or answer["prediction"] == max(labels, key=answer["scores"].get)
    predictor = Predictor.load(str(model), {f"p{i}": tmp_path / f"p{i}" for i in range(8)})
    for name, labels in zip(prompts, LABELS, strict=True):
        rows = [number for number, row in good.items() if row["prompt"] == name][-200:]
        told = [answers[number - 1] for number in rows]
        if not labels:
            assert len({answer["prediction"] for answer in told}) > 20  # drawn, each by itself
            continue
        scores = predictor.score([good[number]["text"] for number in rows], labels, name)
        np.testing.assert_allclose(
            [list(each["scores"].values()) for each in told], scores, atol=1e-4
        )
