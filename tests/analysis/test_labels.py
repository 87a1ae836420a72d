import json

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from tiny_models import make_tiny

from softprompt_jax.analysis import labels, reports
from softprompt_jax.analysis.vocabulary import Vocabulary
from softprompt_jax.errors import UserError
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.prompts.initializers import label_pieces

LABELS = ("positive", "the sky")  # one token, and two


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(str(make_tiny(tmp_path_factory.mktemp("t5"), "t5")))


@pytest.fixture(scope="module")
def words(model):
    return Vocabulary.of(model)


def test_vectors_are_those_of_the_start(model, words):
    pieces = label_pieces(LABELS, words.tokenizer, words.config)
    vectors = labels.label_vectors(pieces, words)
    start = SoftPrompt.create(model, 2, "class_labels", labels=LABELS)
    np.testing.assert_allclose(vectors, start.vectors, rtol=1e-6)
    assert words.texts(pieces[0]) == [" positive"]
    assert words.texts(pieces[1]) == [" the", " sky"]


def test_places_against_sorting(words):
    vectors = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32)
    pieces = label_pieces(LABELS, words.tokenizer, words.config)
    starts = labels.label_vectors(pieces, words)
    places = labels.ranks(vectors, starts, words)
    table = words.rows(words.ids)
    for position in range(6):
        cosines = cosine_similarity(vectors[position : position + 1], table)[0]
        order = np.argsort(-cosines).tolist()
        assert places[position, 0] == order.index(pieces[0][0]) + 1
        mean = cosine_similarity(vectors[position : position + 1], starts[1:])[0, 0]
        assert places[position, 1] == sum(c > mean for c in cosines) + 1


def test_a_fresh_start_has_its_labels(model, words):
    prompts = {
        "labels": SoftPrompt.create(model, 4, "class_labels", labels=LABELS),
        "noise": SoftPrompt.create(model, 4, "random_uniform", labels=LABELS),
    }
    report = labels.describe(prompts, dict.fromkeys(prompts, LABELS), words, k=3)
    report = json.loads(json.dumps(report))
    told = report["prompts"]["labels"]["labels"]
    assert [(each["own_position"], each["own_rank"]) for each in told] == [(0, 1), (1, 1)]
    assert [each["best_rank"] for each in told] == [1, 1]
    assert all(each["own_rank"] is None for each in report["prompts"]["noise"]["labels"])
    summary = report["by_init"]["class_labels"]
    assert (summary["near_own"], summary["near_any"], summary["labels"]) == (2, 2, 2)
    assert report["by_init"]["random_uniform"]["near_own"] is None

    text = reports.as_text(report)
    row = next(line for line in text.splitlines() if line.startswith("the sky"))
    assert row.split()[2:6] == ["▁the|▁sky", "1", "1", "1"]
    last = [" ".join(line.split()) for line in text.splitlines()[-2:]]
    assert last[0].startswith("class_labels 1 2 2 of 2 2 of 2 ")
    assert last[1].startswith("random_uniform 1 2 - ")


def test_labels_may_be_asked_for_in_another_order(model, words):
    start = SoftPrompt.create(model, 4, "class_labels", labels=LABELS)
    asked = {"it": (LABELS[1], "the", LABELS[0])}
    told = labels.describe({"it": start}, asked, words)["prompts"]["it"]["labels"]
    assert [(each["own_position"], each["own_rank"]) for each in told] == [
        (1, 1),
        (None, None),
        (0, 1),
    ]


def test_a_label_that_wandered(model, words):
    """Near two other positions, far from its own."""
    vectors = np.array(SoftPrompt.create(model, 4, "class_labels", labels=LABELS).vectors)
    vectors[[2, 3]] = vectors[0]
    vectors[0] = -vectors[0]
    prompt = SoftPrompt(vectors, {"init": "class_labels"})
    report = labels.describe({"p": prompt}, {"p": LABELS}, words, k=1)
    told = report["prompts"]["p"]["labels"][0]
    assert told["own_rank"] == len(words.ids)
    assert (told["best_rank"], told["best_position"]) == (1, 2)
    assert told["near_positions"] == [2, 3]
    summary = report["by_init"]["class_labels"]
    assert (summary["near_own"], summary["near_any"], summary["near_several"]) == (1, 2, 1)


def test_a_label_without_tokens(words):
    prompt = SoftPrompt(np.zeros((2, 32), np.float32))
    with pytest.raises(UserError, match="The label '' has no tokens"):
        labels.describe({"p": prompt}, {"p": ("positive", "")}, words)
