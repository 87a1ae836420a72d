"""Ensembles are those of plain loops over the prompts, ties included."""

import jax.numpy as jnp
import numpy as np
import pytest
from lively_models import make_lively, random_prompt

from softprompt_jax.errors import UserError
from softprompt_jax.inference import ensembles
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt

TEXTS = ["the movie was good", "bad", "this is a very very awful film", "blue sky", "the cat"]
CHOICES = ["positive", "not good", "true"]


def vote_by_loops(scores):
    winners = []
    for n in range(scores.shape[1]):
        votes = [0] * scores.shape[2]
        for p in range(scores.shape[0]):
            best = 0
            for c in range(scores.shape[2]):
                if scores[p, n, c] > scores[p, n, best]:
                    best = c
            votes[best] += 1
        winner = None
        for c in range(scores.shape[2]):
            if votes[c] < max(votes):
                continue
            total = sum(float(scores[p, n, c]) for p in range(scores.shape[0]))
            if winner is None or total > winner[0]:
                winner = (total, c)
        winners.append(winner[1])
    return winners


def mean_by_loops(scores):
    winners = []
    for n in range(scores.shape[1]):
        totals = [0.0] * scores.shape[2]
        for p in range(scores.shape[0]):
            weights = [2.718281828459045 ** float(x) for x in scores[p, n]]
            for c, weight in enumerate(weights):
                totals[c] += weight / sum(weights)
        winners.append(totals.index(max(totals)))
    return winners


@pytest.mark.parametrize("shape", [(4, 300, 2), (5, 300, 2), (6, 300, 4), (1, 50, 3), (2, 200, 5)])
def test_votes_and_means_are_those_of_plain_loops(shape):
    scores = np.random.default_rng(sum(shape)).normal(-3, 1.5, shape).astype(np.float32)
    voted, mean = ensembles.majority_vote(scores), ensembles.mean_probability(scores)
    assert voted.tolist() == vote_by_loops(scores)
    assert mean.tolist() == mean_by_loops(scores)
    if shape[0] == 1:
        assert voted.tolist() == mean.tolist() == scores[0].argmax(axis=1).tolist()
    else:
        assert (voted != mean).any()  # or the two would be one


def test_ties_go_to_the_higher_sum():
    # Two prompts disagree: the first is sure, the second hardly.
    scores = np.log(np.array([[[0.9, 0.1], [0.1, 0.9]], [[0.4, 0.6], [0.6, 0.4]]], np.float32))
    assert ensembles.majority_vote(scores).tolist() == [0, 1]
    # Two against one: the sum does not matter.
    scores = np.array([[[-1, -2]], [[-1, -2]], [[-50, -1]]], np.float32)
    assert ensembles.majority_vote(scores).tolist() == [0]
    # A choice outside the tie has the highest sum and does not win.
    scores = np.array(
        [[[-1, -9, -2]], [[-9, -1.5, -2]], [[-1, -9, -2]], [[-9, -1, -2]]], np.float32
    )
    assert ensembles.majority_vote(scores).tolist() == [0]
    # All alike: the first. Impossible choices tie too.
    assert ensembles.majority_vote(np.zeros((2, 1, 3), np.float32)).tolist() == [0]
    infinite = np.array([[[-9, -np.inf, -1]], [[-np.inf, -9, -1]]], np.float32)
    assert ensembles.majority_vote(infinite).tolist() == [2]
    infinite = np.array([[[-np.inf, -1, -np.inf]], [[-np.inf, -np.inf, -1]]], np.float32)
    assert ensembles.majority_vote(infinite).tolist() == [1]


def test_sums_keep_small_differences():
    # One vote each, and in float32 the sums would be equal.
    scores = np.array([[[-20000, -20000]], [[-2e-4, -1e-4]]], np.float32)
    assert ensembles.majority_vote(scores).tolist() == [1]


def test_majority_text():
    answers = [["a", "b", "", "x"], ["b", "b", "a", "y"], ["b", "c", "", "z"]]
    assert ensembles.majority_text(answers) == ["b", "b", "", "x"]
    assert ensembles.majority_text([["q", "r"], ["r", "q"]]) == ["q", "r"]
    assert ensembles.majority_text([[], []]) == []


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    model = load_model(str(make_lively(tmp_path_factory.mktemp("model"), "gpt2")))
    prompts = {
        name: SoftPrompt(jnp.asarray(random_prompt(length, seed)))
        for name, length, seed in (("a", 5, 0), ("b", 2, 1), ("c", 5, 2))
    }
    return Predictor(model, prompts, devices=1, batch_size=4)


def test_one_pass_gives_each_prompt_s_own_answers(predictor):
    names = ["c", "a", "b"]
    scores = ensembles.score_with_each(predictor, names, TEXTS, CHOICES)
    answers = ensembles.generate_with_each(predictor, names, TEXTS, 4)
    assert scores.shape == (3, len(TEXTS), len(CHOICES))
    assert [len(each) for each in answers] == [len(TEXTS)] * 3
    for i, name in enumerate(names):
        alone = predictor.score(TEXTS, CHOICES, name)
        np.testing.assert_allclose(scores[i], alone, atol=1e-5, rtol=0)
        assert answers[i] == predictor.generate(TEXTS, name, 4)
    assert np.abs(scores[0] - scores[1]).max() > 0.1


def test_mean_prompt(predictor):
    card = {"model": "m", "task": "t", "labels": ["x", "y"], "step": 3}
    a = SoftPrompt(predictor.prompts["a"].vectors, card)
    c = SoftPrompt(predictor.prompts["c"].vectors, card | {"task": "u", "step": 4})
    mean = ensembles.mean_prompt([a, c])
    expected = [
        [(float(x) + float(y)) / 2 for x, y in zip(row, other, strict=True)]
        for row, other in zip(np.asarray(a.vectors), np.asarray(c.vectors), strict=True)
    ]
    np.testing.assert_allclose(np.asarray(mean.vectors), expected, rtol=1e-6)
    assert mean.vectors.dtype == np.float32
    parts = [{"prompt": f"#{i}", "task": task, "weight": 0.5} for i, task in ((1, "t"), (2, "u"))]
    assert mean.card == {
        "model": "m",
        "labels": ["x", "y"],
        "init": "combined",
        "combined_from": parts,
    }
    with pytest.raises(UserError, match=r"no sum \(positions: #1 5, #2 2\)"):
        ensembles.mean_prompt([a, predictor.prompts["b"]])
    with pytest.raises(UserError, match="at least one"):
        ensembles.mean_prompt([])
