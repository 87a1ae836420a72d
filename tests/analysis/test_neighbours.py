"""Neighbours against scikit-learn's cosines and plain loops, and where the answer is planted."""

import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from analysis.vocabularies import random_vocabulary, vocabulary
from sklearn.metrics.pairwise import cosine_similarity
from tiny_models import make_tiny

from softprompt_jax.analysis import neighbours, reports
from softprompt_jax.analysis import vocabulary as blocks_module
from softprompt_jax.analysis.neighbours import Neighbours, nearest, random_like
from softprompt_jax.analysis.vocabulary import Vocabulary
from softprompt_jax.errors import UserError
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt


def vectors_of(count, width=8, seed=1):
    return np.random.default_rng(seed).normal(0, 5, (count, width)).astype(np.float32)


@pytest.mark.parametrize("block_elements", [8, 80, 10_000])
def test_against_all_cosines_at_once(monkeypatch, block_elements):
    monkeypatch.setattr(blocks_module, "_BLOCK_ELEMENTS", block_elements)
    words = random_vocabulary(count=203)
    vectors = vectors_of(11)
    found = nearest(vectors, words, k=4)
    cosines = cosine_similarity(vectors, words.embedding)
    expected = np.argsort(-cosines, axis=1)[:, :4]
    np.testing.assert_array_equal(found.ids, expected)
    np.testing.assert_allclose(
        found.cosines, np.take_along_axis(cosines, expected, axis=1), rtol=1e-5, atol=1e-6
    )


def test_only_among_the_given_ids():
    words = random_vocabulary(count=60, ids=[3, 7, 8, 40, 59])
    found = nearest(vectors_of(6), words, k=5)
    assert all(sorted(ids) == [3, 7, 8, 40, 59] for ids in found.ids.tolist())
    with pytest.raises(UserError, match="6 neighbours were asked for, but made up has 5 tokens"):
        nearest(vectors_of(6), words, k=6)


@pytest.mark.parametrize("family", ["t5", "llama", "gpt2"])
def test_a_prompt_made_of_tokens_finds_these(tmp_path, family):
    model = load_model(str(make_tiny(tmp_path, family)))
    words = Vocabulary.of(model, special=False)
    planted = words.ids[[4, 0, 17, 4]]
    lengths = np.array([[0.1], [1.0], [7.0], [300.0]], np.float32)
    found = nearest(words.rows(planted) * lengths, words, k=2)
    np.testing.assert_array_equal(found.ids[:, 0], planted)
    np.testing.assert_allclose(found.cosines[:, 0], 1.0, rtol=1e-6)
    assert (found.cosines[:, 1] < 0.999).all()


def test_half_precision_embeddings():
    exact = random_vocabulary(count=90)
    half = vocabulary(exact.embedding.astype(ml_dtypes.bfloat16))
    found = nearest(vectors_of(5), half, k=3)
    cosines = cosine_similarity(vectors_of(5), half.embedding.astype(np.float32))
    np.testing.assert_allclose(found.cosines, -np.sort(-cosines, axis=1)[:, :3], rtol=1e-5)


def test_a_vector_of_zeros_is_near_nothing():
    found = nearest(np.zeros((2, 8), np.float32), random_vocabulary(), k=3)
    np.testing.assert_array_equal(found.cosines, 0)


def test_memory_does_not_grow_with_the_vocabulary(monkeypatch):
    monkeypatch.setattr(blocks_module, "_BLOCK_ELEMENTS", 1 << 14)
    words = random_vocabulary(count=40_000, width=64)  # 10 MB
    vectors = vectors_of(20, 64)
    tracemalloc.start()
    nearest(vectors, words, k=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_the_control_has_the_norms_and_no_direction():
    vectors = vectors_of(400, 64) + 3  # all of them lean to one side
    control = random_like(vectors, seed=0)
    np.testing.assert_allclose(
        np.linalg.norm(control, axis=1), np.linalg.norm(vectors, axis=1), rtol=1e-5
    )
    assert np.linalg.norm(np.mean(control / np.linalg.norm(control, axis=1)[:, None], 0)) < 0.15
    assert abs(cosine_similarity(vectors, control)).mean() < 0.2
    np.testing.assert_array_equal(control, random_like(vectors, seed=0))
    assert (control != random_like(vectors, seed=1)).any()


def test_repeated_neighbours():
    ids = np.array([[5, 1, 2], [1, 5, 3], [4, 5, 9]], np.int32)
    found = Neighbours(ids, np.zeros((3, 3), np.float32))
    assert neighbours.repeated(found) == {5: [0, 1, 2], 1: [0, 1]}
    assert list(neighbours.repeated(found)) == [5, 1]


def test_tightness_is_the_mean_cosine_of_pairs():
    words = random_vocabulary()
    found = nearest(vectors_of(3), words, k=4)
    pairs = []
    for ids in found.ids:
        cosines = cosine_similarity(words.embedding[ids])
        pairs += [cosines[i, j] for i in range(4) for j in range(i)]
    assert neighbours.tightness(found, words) == pytest.approx(np.mean(pairs), rel=1e-5)
    assert neighbours.tightness(nearest(vectors_of(3), words, k=1), words) is None


def test_report():
    """Two clusters of tokens; a prompt of one token twice and one of the other cluster."""
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(16, dtype=np.float32)[:2] * 4, 10, axis=0)
    words = vocabulary(
        (centres + rng.normal(0, 0.2, (20, 16))).astype(np.float32),
        words=[*(f" cat{i}" for i in range(10)), *(f"dog\n{i}" for i in range(10))],
    )
    prompt = SoftPrompt(words.embedding[[3, 3, 15]] * 2, {"task": "pets", "init": "sampled_vocab"})
    report = neighbours.describe({"mine": prompt}, words, k=3)
    mine = json.loads(json.dumps(report))["prompts"]["mine"]
    assert [each["neighbours"][0]["text"] for each in mine["positions"]] == [
        *(" cat3", " cat3", "dog\n5")
    ]
    assert mine["summary"]["nearest_cosine_least"] == pytest.approx(1, rel=1e-6)
    assert mine["summary"]["different_nearest"] == 2
    assert [token["positions"] for token in mine["repeated"]] == [[0, 1]] * 3
    assert mine["control"]["nearest_cosine_mean"] < 0.9
    assert len(mine["control_cosines"]) == 3
    assert mine["summary"]["cosine_among_neighbours"] > 0.9

    lines = reports.as_text(report).splitlines()
    assert lines[0].startswith("made up: 20 tokens, mean norm 4.")
    assert "mine (pets, sampled_vocab)" in lines
    first = next(line for line in lines if line.split()[:1] == ["0"])
    assert first.split()[2:4] == ["▁cat3", "1.00"]
    assert any(line.split()[2:4] == ["dog⏎5", "1.00"] for line in lines)
    assert "  ▁cat3: positions 0, 1" in lines
    assert "different nearest tokens" in reports.as_text(report)
