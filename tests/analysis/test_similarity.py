import json

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from softprompt_jax.analysis import reports, similarity
from softprompt_jax.errors import UserError
from softprompt_jax.prompts import SoftPrompt


def vectors_of(length, seed, width=12):
    return np.random.default_rng(seed).normal(0.3, 2, (length, width)).astype(np.float32)


THREE = [vectors_of(5, 0), vectors_of(5, 1), vectors_of(5, 2)]
MIXED = [vectors_of(5, 0), vectors_of(9, 1), vectors_of(1, 2)]


@pytest.mark.parametrize("prompts", [THREE, MIXED])
def test_mean_and_all_pairs_against_loops(prompts):
    means = np.stack([vectors.mean(axis=0) for vectors in prompts])
    np.testing.assert_allclose(
        similarity.mean_cosine(prompts), cosine_similarity(means), rtol=1e-5, atol=1e-6
    )
    found = similarity.all_pairs_cosine(prompts)
    for i, first in enumerate(prompts):
        for j, second in enumerate(prompts):
            expected = cosine_similarity(first, second).mean()
            assert found[i, j] == pytest.approx(expected, abs=1e-6)


def test_position_by_position():
    found = similarity.position_cosine(THREE)
    for i, first in enumerate(THREE):
        for j, second in enumerate(THREE):
            expected = np.diagonal(cosine_similarity(first, second)).mean()
            assert found[i, j] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match="1, 5, 9 positions cannot be compared"):
        similarity.position_cosine(MIXED)


def test_the_order_of_positions_matters_to_one_measure_only():
    pair = [THREE[0], THREE[0][::-1]]
    assert similarity.mean_cosine(pair)[0, 1] == pytest.approx(1, rel=1e-5)
    own = similarity.all_pairs_cosine(pair)
    assert own[0, 1] == pytest.approx(own[0, 0], rel=1e-5)
    assert similarity.position_cosine(pair)[0, 1] < 0.9


def test_plane_against_scikit_learn():
    prompts = [vectors_of(4, seed) for seed in range(6)]
    places, shares = similarity.plane(prompts)
    pca = PCA(2)
    expected = pca.fit_transform(np.stack([vectors.mean(axis=0) for vectors in prompts]))
    signs = np.sign((places * expected).sum(axis=0))
    np.testing.assert_allclose(places * signs, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shares, pca.explained_variance_ratio_, rtol=1e-4)


def test_plane_of_two_and_of_equal_prompts():
    places, shares = similarity.plane(THREE[:2])
    distance = np.linalg.norm(THREE[0].mean(axis=0) - THREE[1].mean(axis=0))
    assert abs(places[0, 0] - places[1, 0]) == pytest.approx(distance, rel=1e-5)
    np.testing.assert_allclose(shares, [1, 0], atol=1e-6)
    places, shares = similarity.plane([THREE[0]] * 3)
    assert np.isfinite(places).all()
    assert np.isfinite(shares).all()


def prompts_of(vectors, **card):
    return {f"p{i}": SoftPrompt(each, {"task": f"t{i}", **card}) for i, each in enumerate(vectors)}


def test_report():
    report = similarity.describe(prompts_of(THREE, model="tiny"))
    assert json.loads(json.dumps(report)) == report
    assert list(report["cosines"]) == ["mean", "all_pairs", "position"]
    lines = reports.as_text(report).splitlines()
    assert lines[0] == "3 prompts of tiny"
    at = lines.index("Mean cosine of like positions")
    assert lines[at + 2].split() == [
        *("1", "p0"),
        *(f"{value:.3f}" for value in report["cosines"]["position"][0]),
    ]
    several = similarity.describe(prompts_of(MIXED))
    assert list(several["cosines"]) == ["mean", "all_pairs"]
    assert "like positions are not compared" in reports.as_text(several)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (prompts_of(THREE[:1]), "give at least two"),
        (prompts_of([THREE[0], vectors_of(5, 0, 6)]), "Prompt p0 is 12 wide and p1 is 6"),
        (
            {
                "a": SoftPrompt(THREE[0], {"model": "x", "model_fingerprint": "1"}),
                "b": SoftPrompt(THREE[1], {"model": "y", "model_fingerprint": "2"}),
            },
            "a was trained on x and b on y with other weights",
        ),
    ],
)
def test_what_cannot_be_compared(prompts, message):
    with pytest.raises(UserError, match=message):
        similarity.describe(prompts)
