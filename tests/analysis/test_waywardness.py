import dataclasses

import jax
import numpy as np
import pytest
from analysis.vocabularies import random_vocabulary
from small_runs import small_config
from tiny_models import make_tiny

from softprompt_jax.analysis import reports, waywardness
from softprompt_jax.analysis.vocabulary import Vocabulary
from softprompt_jax.data.splits import read_split
from softprompt_jax.data.tokenization import pad_rows
from softprompt_jax.errors import UserError
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.training.parallel import PmapLayout
from softprompt_jax.training.setup import tasks_from_options


def test_nearest_by_distance_against_loops():
    words = random_vocabulary(count=80)
    vectors = np.random.default_rng(3).normal(0, 4, (9, 8)).astype(np.float32)
    expected = [
        min(range(80), key=lambda i, v=vector: np.linalg.norm(v - words.embedding[i]))
        for vector in vectors
    ]
    assert waywardness.discretise(vectors, words).tolist() == expected


def test_distance_is_not_cosine():
    """A short token in another direction is nearer than a long one in the same."""
    words = random_vocabulary(count=2, width=2)
    words.embedding[:] = [[100, 0], [0, 1]]
    assert waywardness.discretise(np.array([[1, 0]], np.float32), words).tolist() == [1]


@dataclasses.dataclass
class Case:
    model: object
    words: Vocabulary
    task: object
    split: object
    judge: waywardness.Judge


@pytest.fixture(scope="module", params=["t5", "llama"])
def case(request, tmp_path_factory):
    """Validation rows of a small task, judged on two devices."""
    folder = tmp_path_factory.mktemp(request.param)
    config = small_config(folder, request.param)
    model = load_model(config.model.name)
    (task,) = tasks_from_options(config.task)
    split = read_split(config.task, task, "validation", model.tokenizer, model.config).first(7)
    judge = waywardness.Judge(
        model,
        task,
        split,
        batch_size=4,
        options=config.task,
        layout=PmapLayout(jax.local_devices()[:2]),
    )
    return Case(model, Vocabulary.of(model), task, split, judge)


def loss_of(case, vectors):
    """Through the model's public logits."""
    config, examples = case.model.config, case.split.examples
    inputs, targets = (
        [flat[offsets[row] : offsets[row + 1]].tolist() for row in range(len(examples))]
        for flat, offsets in (
            (examples.inputs, examples.input_offsets),
            (examples.targets, examples.target_offsets),
        )
    )
    if config.is_encoder_decoder:
        starts = pad_rows([[config.decoder_start_id, *own[:-1]] for own in targets])[0]
        first = [0] * len(inputs)
    else:
        first = [len(own) - 1 for own in inputs]
        inputs, starts = (
            [own + other[:-1] for own, other in zip(inputs, targets, strict=True)],
            None,
        )
    logits = np.asarray(case.model.logits(*pad_rows(inputs), starts, vectors), np.float64)
    total = 0.0
    for row, target in enumerate(targets):
        own = logits[row, first[row] : first[row] + len(target)]
        total += (np.log(np.exp(own).sum(axis=1)) - own[np.arange(len(target)), target]).sum()
    return total / sum(map(len, targets))


@pytest.mark.slow
def test_losses_and_metrics(case):
    vectors = np.random.default_rng(0).normal(0, 1, (4, 32)).astype(np.float32)
    prompts = {"mine": SoftPrompt(vectors, {"task": "sentiment"})}
    report = waywardness.describe(prompts, case.words, case.judge, "sentiment", case.split)
    mine = report["prompts"]["mine"]
    ids = waywardness.discretise(vectors, case.words)
    rows = case.words.rows(ids)
    assert mine["trained"]["loss"] == pytest.approx(loss_of(case, vectors), rel=1e-5)
    assert mine["discretised"]["loss"] == pytest.approx(loss_of(case, rows), rel=1e-5)
    assert mine["trained"]["loss"] != pytest.approx(mine["discretised"]["loss"], rel=1e-3)
    assert 0 <= mine["discretised"]["metrics"]["accuracy"] <= 1
    assert [token["id"] for token in mine["discretised"]["tokens"]] == ids.tolist()
    distances = [np.linalg.norm(v - r) for v, r in zip(vectors, rows, strict=True)]
    assert mine["discretised"]["distance"] == pytest.approx(np.mean(distances), rel=1e-5)

    lines = reports.as_text(report).splitlines()
    assert "sentiment: 7 rows" in lines[0]
    trained = next(line for line in lines if line.startswith("trained"))
    assert trained.split()[1] == f"{mine['trained']['loss']:.4f}"


@pytest.mark.slow
def test_a_prompt_of_tokens_loses_nothing(case):
    ids = case.words.ids[[30, 31, 40, 31]]
    prompts = {"text": SoftPrompt(case.words.rows(ids))}
    report = waywardness.describe(prompts, case.words, case.judge, "sentiment", case.split)
    told = report["prompts"]["text"]
    assert [token["id"] for token in told["discretised"]["tokens"]] == ids.tolist()
    assert told["discretised"]["distance"] == 0
    assert told["discretised"]["cosine"] == pytest.approx(1)
    assert told["discretised"]["loss"] == told["trained"]["loss"]


@pytest.mark.slow
def test_beside_a_text(case):
    start = SoftPrompt.create(case.model, 4, "text", text="the sky is")
    vectors = np.array(start.vectors)
    vectors[2] = np.array(case.words.rows([9]))[0] * 1.01  # another word
    report = waywardness.describe(
        {"p": SoftPrompt(vectors)},
        case.words,
        case.judge,
        "sentiment",
        case.split,
        text="the sky is",
    )
    told = report["prompts"]["p"]
    # The text is repeated up to the prompt's length.
    assert [token["text"] for token in told["text"]["tokens"]] == [*(" the", " sky", " is", " the")]
    assert told["positions_nearest_to_text"] == 3
    assert told["text"]["loss"] == pytest.approx(loss_of(case, np.asarray(start.vectors)), rel=1e-5)
    assert "positions whose nearest token is the text's: 3 of 4" in reports.as_text(report)
    with pytest.raises(UserError, match="has no tokens"):
        waywardness.describe({"p": start}, case.words, case.judge, "sentiment", case.split, text="")


@pytest.mark.slow
def test_a_task_judged_by_likelihood(tmp_path):
    model = load_model(str(make_tiny(tmp_path, "gpt2", n_layer=1)))
    config = small_config(tmp_path, "gpt2", task__evaluation="likelihood")
    (task,) = tasks_from_options(config.task)
    split = read_split(config.task, task, "validation", model.tokenizer, model.config).first(4)
    judge = waywardness.Judge(
        model,
        task,
        split,
        batch_size=2,
        options=config.task,
        layout=PmapLayout(jax.local_devices()[:1]),
    )
    told = judge(np.ones((3, 32), np.float32))
    assert told["metrics"]["perplexity"] == pytest.approx(np.exp(told["loss"]))
