"""Greedy decoding against transformers' `generate`, and against an argmax loop."""

import json

import numpy as np
import pytest
from lively_models import compiled, load_torch, make_lively, pad, random_prompt, random_rows

from softprompt_jax.inference.decoding import greedy
from softprompt_jax.models import load_model

VARIANTS = ("t5", "mistral", "gpt2")
INPUTS = random_rows((9, 3, 6))
NEW = 6
PROMPT = random_prompt(5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {v: make_lively(tmp_path_factory.mktemp("model"), v) for v in VARIANTS}


def generate(model, prompt=None, rows=INPUTS, new=NEW) -> np.ndarray:
    inputs, mask = pad(rows, width=11)
    batch = {"inputs": inputs, "input_mask": mask}
    return compiled(lambda module, *args: greedy(module, *args, new), model, batch, prompt)


def torch_generate(folder, eos_id) -> np.ndarray:
    torch = pytest.importorskip("torch")
    model = load_torch(folder)
    # A causal model's answer follows the last column, so transformers wants padding on the left.
    ids, mask = pad(INPUTS, "right" if model.config.is_encoder_decoder else "left")
    output = model.generate(
        torch.tensor(ids).long(),
        attention_mask=torch.tensor(mask).long(),
        do_sample=False,
        max_new_tokens=NEW,
        eos_token_id=eos_id,
        pad_token_id=3,
    ).numpy()
    answers = output[:, 1:] if model.config.is_encoder_decoder else output[:, ids.shape[1] :]
    return np.pad(answers, ((0, 0), (0, NEW - answers.shape[1])), constant_values=3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers(folders, tmp_path, variant):
    """With an end of sequence that one row meets before the others."""
    free = torch_generate(folders[variant], None)
    # The row and step of a token that no row but this has had before.
    eos_row, eos_step = next(
        (row, step)
        for row in range(3)
        for step in (1, 2, 3)
        if free[row, step] not in free[row, :step]
        and free[row, step] not in np.delete(free, row, 0)
    )
    eos = int(free[eos_row, eos_step])
    for file in folders[variant].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    raw = json.loads((tmp_path / "config.json").read_text())
    raw |= {"eos_token_id": eos, "pad_token_id": 3}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    answers = generate(load_model(str(tmp_path)))
    assert answers.dtype == np.int32
    assert answers.shape == (3, NEW)
    np.testing.assert_array_equal(answers, torch_generate(tmp_path, eos))
    assert answers[eos_row, eos_step] == eos
    assert (answers[eos_row, eos_step + 1 :] == 3).all()
    others = np.delete(np.arange(3), eos_row)
    np.testing.assert_array_equal(answers[others], free[others])


def argmax_loop(model, rows, prompt) -> list[list[int]]:
    """Answers from `LanguageModel.logits` alone; shapes stay, so that it is compiled once."""
    answers = [[] for _ in rows]
    for step in range(NEW):
        if model.is_encoder_decoder:
            ids, mask = pad(rows, width=11)
            decoder_ids, _ = pad([[model.config.decoder_start_id, *a] for a in answers], width=NEW)
            logits = np.asarray(model.logits(ids, mask, decoder_ids, prompt))[:, step]
        else:
            ids, mask = pad([r + a for r, a in zip(rows, answers, strict=True)], "left", 9 + NEW)
            logits = np.asarray(model.logits(ids, mask, prompt=prompt))[:, -1]
        for answer, token in zip(answers, logits.argmax(axis=-1), strict=True):
            answer.append(int(token))
    for answer in answers:
        for step, token in enumerate(answer):
            if token in model.config.eos_ids:
                answer[step + 1 :] = [model.config.pad_id] * (NEW - step - 1)
                break
    return answers


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_argmax_loop_with_a_prompt(folders, variant):
    model = load_model(str(folders[variant]))
    answers = generate(model, PROMPT)
    assert answers.tolist() == argmax_loop(model, INPUTS, PROMPT)
    assert len(np.unique(answers)) > 3


def test_a_single_token(folders):
    model = load_model(str(folders["gpt2"]))
    np.testing.assert_array_equal(generate(model, new=1), generate(model)[:, :1])
