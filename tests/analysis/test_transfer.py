"""Prompts made of prompts, where the right answer is known."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from analysis.vocabularies import vocabulary
from safetensors.numpy import load_file, save_file
from sklearn.metrics.pairwise import cosine_similarity
from tiny_models import WORDS, make_tiny

import softprompt_jax as sp
from softprompt_jax.analysis import transfer
from softprompt_jax.analysis.neighbours import nearest
from softprompt_jax.analysis.vocabulary import Vocabulary
from softprompt_jax.errors import UserError
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.prompts.reparameterizations.prefix import LayerPrefix
from softprompt_jax.prompts.unfolded_prompt import UnfoldedPrompt


def prompt_of(length, seed, width=12, **card):
    values = np.random.default_rng(seed).normal(0.2, 3, (length, width))
    return SoftPrompt(values.astype(np.float32), card)


# --- retrieval -------------------------------------------------------------------------------


def test_find_prompts(tmp_path):
    for name in ("a/best", "b", "deep/er/c", ".b.old", ".d.77.tmp/best"):
        prompt_of(3, 0, task=name).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    found, left_out = transfer.find_prompts(tmp_path)
    assert left_out == {}
    assert sorted(found) == ["a/best", "b", "deep/er/c"]
    assert found["deep/er/c"].card["task"] == "deep/er/c"
    # What is more than vectors, and prompts of another model than the target.
    shape = (1, 2, 3, 4)
    UnfoldedPrompt(LayerPrefix(jnp.ones(shape), jnp.ones(shape))).save(tmp_path / "prefix")
    prompt_of(3, 0, width=5).save(tmp_path / "narrow")
    found, left_out = transfer.find_prompts(tmp_path)
    assert sorted(found) == ["a/best", "b", "deep/er/c", "narrow"]
    assert left_out == {"prefix": "a 'prefix' prompt, which is more than vectors"}
    found, left_out = transfer.find_prompts(tmp_path, prompt_of(4, 1))
    assert sorted(found) == ["a/best", "b", "deep/er/c"]
    assert left_out["narrow"] == "of another model than the target"
    with pytest.raises(UserError, match=r"left out: 5, such as a/best"):
        transfer.find_prompts(tmp_path, prompt_of(4, 1, width=9))
    (tmp_path / "b" / "prompt.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="damaged"):
        transfer.find_prompts(tmp_path)


def test_a_folder_without_prompts(tmp_path):
    with pytest.raises(UserError, match="There is no prompt in"):
        transfer.find_prompts(tmp_path)
    with pytest.raises(UserError, match="There is no prompt in"):
        transfer.find_prompts(tmp_path / "nowhere")


@pytest.mark.parametrize("measure", ["mean", "all_pairs", "position"])
def test_the_nearest_source_comes_first(measure):
    target = prompt_of(6, 0)
    sources = {f"other{i}": prompt_of(6, i) for i in range(1, 6)}
    noise = np.random.default_rng(9).normal(0, 1, (6, 12))
    sources["related"] = SoftPrompt((np.asarray(target.vectors) + noise).astype(np.float32))
    matches = transfer.retrieve(target, sources, measure)
    assert matches[0].name == "related"
    assert [match.similarity for match in matches] == sorted(
        (match.similarity for match in matches), reverse=True
    )
    ours, others = np.asarray(target.vectors), np.asarray(sources["other3"].vectors)
    expected = {
        "mean": cosine_similarity([ours.mean(0)], [others.mean(0)])[0, 0],
        "all_pairs": cosine_similarity(ours, others).mean(),
        "position": np.diagonal(cosine_similarity(ours, others)).mean(),
    }[measure]
    found = {match.name: match.similarity for match in matches}["other3"]
    assert found == pytest.approx(expected, abs=1e-6)


def test_sources_of_other_lengths_and_widths():
    target, longer = prompt_of(4, 0), prompt_of(9, 1)
    assert transfer.retrieve(target, {"l": longer}, "mean")[0].name == "l"
    with pytest.raises(UserError, match="4, 9 positions"):
        transfer.retrieve(target, {"l": longer}, "position")
    with pytest.raises(UserError, match="of the target is 12 wide and w is 7"):
        transfer.retrieve(target, {"w": prompt_of(4, 0, width=7)})
    with pytest.raises(UserError, match="no measure 'euclid'"):
        transfer.retrieve(target, {"l": longer}, "euclid")
    with pytest.raises(UserError, match="no source prompt"):
        transfer.retrieve(target, {})


# --- combination -----------------------------------------------------------------------------


def test_the_mean():
    prompts = {"a": prompt_of(4, 0), "b": prompt_of(4, 1), "c": prompt_of(4, 2)}
    combined = transfer.combine(prompts)
    values = [np.asarray(prompt.vectors, np.float64) for prompt in prompts.values()]
    np.testing.assert_allclose(combined.vectors, np.mean(values, axis=0), rtol=1e-6)
    assert combined.vectors.dtype == np.float32


def test_weights_are_taken_as_they_are(tmp_path):
    common = {"model": "m", "model_fingerprint": "f", "labels": ["x", "y"], "metrics": {"a": 1.0}}
    common |= {"target_prefix": "so ", "task_prefix": True}
    prompts = {
        "a": prompt_of(4, 0, task="one", init="text", **common),
        "b": prompt_of(4, 1, task="two", init="file", **common),
    }
    combined = transfer.combine(prompts, [2.0, -0.5])
    expected = 2 * np.asarray(prompts["a"].vectors) - 0.5 * np.asarray(prompts["b"].vectors)
    np.testing.assert_allclose(combined.vectors, expected, rtol=1e-5, atol=1e-5)
    combined.save(tmp_path / "combined")
    card = json.loads((tmp_path / "combined" / "prompt.json").read_text())
    # What the parts agree on, and no scores: nobody evaluated it.
    assert card == {
        "model": "m",
        "model_fingerprint": "f",
        "labels": ["x", "y"],
        "target_prefix": "so ",
        "task_prefix": True,
        "init": "combined",
        "combined_from": [
            {"prompt": "a", "task": "one", "weight": 2.0},
            {"prompt": "b", "task": "two", "weight": -0.5},
        ],
        "format": 1,
        "length": 4,
        "d_model": 12,
    }


def test_average_of_what_was_retrieved():
    target = prompt_of(4, 0)
    near = SoftPrompt(np.asarray(target.vectors) + 1)
    sources = {"near": near, "same": target}
    matches = transfer.retrieve(target, sources)
    averaged = transfer.combine_matches(matches, sources, "mean")
    similar = [match.similarity for match in matches]
    weights = [value / sum(similar) for value in similar]
    assert [part["weight"] for part in averaged.card["combined_from"]] == pytest.approx(weights)
    assert averaged.card["weighted_by"] == "mean"
    expected = sum(
        w * np.asarray(sources[match.name].vectors, np.float64)
        for w, match in zip(weights, matches, strict=True)
    )
    np.testing.assert_allclose(averaged.vectors, expected, rtol=1e-6)
    opposite = {"opposite": SoftPrompt(-np.asarray(target.vectors))}
    with pytest.raises(UserError, match=r"similarity -1.000, which is no weight"):
        transfer.combine_matches(transfer.retrieve(target, opposite), opposite, "mean")


@pytest.mark.parametrize(
    ("prompts", "weights", "message"),
    [
        ({}, None, "no prompt to combine"),
        ({"a": prompt_of(2, 0)}, [1, 2], "1 prompts but 2 weights"),
        ({"a": prompt_of(2, 0)}, [float("nan")], "not a finite number"),
        ({"a": prompt_of(2, 0), "b": prompt_of(3, 0)}, None, r"positions: a 2, b 3"),
        ({"a": prompt_of(2, 0), "b": prompt_of(2, 0, 7)}, None, "a is 12 wide and b is 7"),
        ({"a": prompt_of(2, 0)}, [1e39], "numbers that are not finite"),
        (
            {n: prompt_of(2, 0, model=n, model_fingerprint=f"of {n}") for n in "ab"},
            None,
            "with other weights",
        ),
    ],
)
def test_what_cannot_be_combined(prompts, weights, message):
    with pytest.raises(UserError, match=message):
        transfer.combine(prompts, weights)


# --- recycling -------------------------------------------------------------------------------


def pair_of(shared, width=8, target_width=8, seed=0, noise=0.0):
    """Two vocabularies in another order, and the map from one to the other."""
    rng = np.random.default_rng(seed)
    matrix = np.linalg.qr(rng.normal(size=(width, width)))[0][:, :target_width]
    table = rng.normal(size=(shared, width))
    mapped = table @ matrix + noise * rng.normal(size=(shared, target_width))
    order = rng.permutation(shared)
    own, others = rng.normal(size=(7, width)), rng.normal(size=(5, target_width))
    names = [f" word{i}" for i in range(shared)]
    source = vocabulary(
        np.concatenate([table, own]).astype(np.float32),
        words=[*names, *(f"own{i}" for i in range(7))],
        name="source",
    )
    target = vocabulary(
        np.concatenate([others, mapped[order]]).astype(np.float32),
        words=[*(f"other{i}" for i in range(5)), *(names[i] for i in order)],
        name="target",
    )
    return source, target, matrix


@pytest.mark.parametrize("target_width", [8, 5])
def test_a_known_map_comes_back(target_width):
    source, target, matrix = pair_of(60, target_width=target_width)
    prompt = prompt_of(4, 0, width=8, model="source", model_fingerprint="f", task="t", step=9)
    recycled = transfer.recycle(prompt, source, target)
    np.testing.assert_allclose(
        recycled.vectors, np.asarray(prompt.vectors) @ matrix, rtol=1e-4, atol=1e-4
    )
    told = recycled.card["recycled_from"]
    assert (told["shared_tokens"], told["ridge"]) == (60, 0.0)
    assert told["held_out_cosine"] == pytest.approx(1, abs=1e-5)
    assert (told["model"], told["model_fingerprint"], told["step"]) == ("source", "f", 9)
    assert (recycled.card["model"], recycled.card["task"]) == ("target", "t")
    assert "metrics" not in recycled.card


def test_against_numpys_least_squares():
    source, target, _ = pair_of(60, target_width=6, noise=0.3)
    shared = transfer.shared_tokens(source, target)
    texts = [source.texts([i])[0] for i in shared.source]
    assert texts == [target.texts([i])[0] for i in shared.target]
    assert sorted(texts) == sorted(f" word{i}" for i in range(60))
    s, t = source.rows(shared.source), target.rows(shared.target)
    fitted = transfer.fit_map(source, target, shared)
    np.testing.assert_allclose(fitted.matrix, np.linalg.lstsq(s, t)[0], rtol=1e-4, atol=1e-5)
    # With a ridge term: the same as least squares with rows of the term's root below.
    ridge = 0.1
    root = np.sqrt(ridge * (s.astype(np.float64) ** 2).mean() * 60)
    below = np.concatenate([s, root * np.eye(8)]), np.concatenate([t, np.zeros((8, 6))])
    fitted = transfer.fit_map(source, target, shared, ridge)
    np.testing.assert_allclose(fitted.matrix, np.linalg.lstsq(*below)[0], rtol=1e-5, atol=1e-6)
    # Every tenth token, under a map of the others.
    held = np.arange(60) % 10 == 9
    matrix = np.linalg.lstsq(s[~held], t[~held])[0]
    cosines = np.diagonal(cosine_similarity(s[held] @ matrix, t[held]))
    fitted = transfer.fit_map(source, target, shared)
    assert fitted.held_out_cosine == pytest.approx(cosines.mean(), abs=1e-5)


def test_blocks_give_the_same_map(monkeypatch):
    source, target, _ = pair_of(60, noise=0.3)
    shared = transfer.shared_tokens(source, target)
    whole = transfer.fit_map(source, target, shared)
    monkeypatch.setattr(transfer, "_BLOCK", 7)
    np.testing.assert_allclose(
        transfer.fit_map(source, target, shared).matrix, whole.matrix, rtol=1e-9
    )


def test_too_few_tokens_take_a_ridge_term():
    source, target, _ = pair_of(6)
    shared = transfer.shared_tokens(source, target)
    fitted = transfer.fit_map(source, target, shared)
    assert fitted.ridge == transfer.RIDGE
    assert fitted.held_out_cosine is None
    # Of the tokens themselves it still makes what they are.
    mapped = source.rows(shared.source) @ fitted.matrix
    cosines = np.diagonal(cosine_similarity(mapped, target.rows(shared.target)))
    assert cosines.min() > 0.99
    with pytest.raises(UserError, match="6 shared tokens do not determine a map of 8 dimensions"):
        transfer.fit_map(source, target, shared, ridge=0.0)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="must be 0 or a positive number"):
            transfer.fit_map(source, target, shared, ridge=bad)


def test_tokens_that_lie_in_a_plane_take_a_ridge_term():
    source, target, _ = pair_of(60)
    source.embedding[:, 3] = source.embedding[:, 2]
    assert transfer.fit_map(source, target, transfer.shared_tokens(source, target)).ridge > 0


def test_the_most_frequent_tokens_only():
    source, target, _ = pair_of(60)
    shared = transfer.shared_tokens(source, target, most=20)
    assert shared.source.tolist() == list(range(20))


def test_nothing_in_common():
    source, target, _ = pair_of(20)
    strangers = vocabulary(target.embedding, words=[f"x{i}" for i in range(25)], name="strangers")
    with pytest.raises(UserError, match="source and strangers share no token"):
        transfer.recycle(prompt_of(2, 0, width=8), source, strangers)
    with pytest.raises(UserError, match="The prompt is 12 wide"):
        transfer.recycle(prompt_of(2, 0), source, target)


def test_between_real_models(tmp_path):
    """A T5 and a Llama: other ids, other words, one's embedding a rotation of the other's."""
    words = [f"w{i}" for i in range(80)]
    t5 = make_tiny(tmp_path / "t5", "t5", [*WORDS, *words])
    llama = make_tiny(tmp_path / "llama", "llama", [*reversed(words), *WORDS[5:], "more"], seed=1)
    source = Vocabulary.of(load_model(str(t5)), special=False)
    target = Vocabulary.of(load_model(str(llama)), special=False)
    shared = transfer.shared_tokens(source, target)
    texts = source.texts(shared.source)
    assert texts == target.texts(shared.target)
    assert {" w0", " cat", "x"} <= set(texts)
    assert not {" more", " positive", "</s>", "<unk>"} & set(texts)

    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0]
    tensors = load_file(llama / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].copy()
    rows = source.rows(shared.source) @ rotation
    tensors["model.embed_tokens.weight"][shared.target] = rows.astype(np.float32)
    save_file(tensors, llama / "model.safetensors")

    model = load_model(str(llama))
    target = Vocabulary.of(model, special=False)
    chosen = shared.source[[3, 50, 50, 8]]
    prompt = SoftPrompt(source.rows(chosen) * 2, {"model": "t5", "labels": ["a", "b"]})
    recycled = transfer.recycle(prompt, source, target)
    found = nearest(np.asarray(recycled.vectors), target, k=1)
    assert target.texts(found.ids[:, 0]) == source.texts(chosen)
    np.testing.assert_allclose(recycled.vectors, np.asarray(prompt.vectors) @ rotation, atol=1e-4)
    assert recycled.card["model_fingerprint"] == model.fingerprint
    # It is a prompt like any other.
    recycled.save(tmp_path / "recycled")
    start = sp.SoftPrompt.create(model, 4, "file", file=tmp_path / "recycled")
    np.testing.assert_array_equal(start.vectors, recycled.vectors)
