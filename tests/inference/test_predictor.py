"""A Predictor gives each row what its prompt alone would give, whatever else is in the batch."""

import jax.numpy as jnp
import numpy as np
import pytest
from lively_models import make_lively, random_prompt

from softprompt_jax.data import encode_choices, encode_inputs
from softprompt_jax.errors import UserError
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt

VARIANTS = ("t5", "mistral", "gpt2")
PROMPTS = {
    name: SoftPrompt(jnp.asarray(random_prompt(length, seed)))
    for name, length, seed in (("a", 6, 0), ("b", 2, 1), ("c", 6, 2))
}
TEXTS = [
    "the movie was good",
    "bad",
    "this is a very very awful film and not that great",
    "a question of the context",
    "the story is bad",
    "the cat and the dog",
    "blue sky",
]
NAMES = ["a", "b", "c", "a", "b", "b", "c"]
CHOICES = ["positive", "not good", "true"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {v: make_lively(tmp_path_factory.mktemp("model"), v) for v in VARIANTS}


@pytest.fixture(scope="module")
def models(folders):
    return {variant: load_model(str(folder)) for variant, folder in folders.items()}


def predictor_of(model, *names, **options):
    return Predictor(model, {name: PROMPTS[name] for name in names}, **options)


@pytest.mark.parametrize("variant", VARIANTS)
def test_mixed_prompts(models, variant):
    model = models[variant]
    # Few shapes and full batches, because each is compiled.
    options = {"batch_size": len(TEXTS), "max_shapes": 1}
    mixed = predictor_of(model, "a", "b", "c", **options)
    scores = mixed.score(TEXTS, CHOICES, NAMES)
    answers = mixed.generate(TEXTS, NAMES, max_new_tokens=4)
    assert scores.dtype == np.float32
    assert scores.shape == (len(TEXTS), len(CHOICES))
    assert len(answers) == len(TEXTS)
    assert len(set(answers)) > 3
    for name in PROMPTS:
        alone = predictor_of(model, name, **options)
        alone_scores = alone.score(TEXTS, CHOICES)
        alone_answers = alone.generate(TEXTS, max_new_tokens=4)
        for i, own in enumerate(NAMES):
            if own == name:
                np.testing.assert_allclose(scores[i], alone_scores[i], atol=1e-5, rtol=0)
                assert answers[i] == alone_answers[i]
        others = np.asarray([own != name for own in NAMES])
        assert np.abs(scores - alone_scores)[others].max() > 0.1  # the prompts are not all one


@pytest.mark.parametrize("variant", ["t5", "gpt2"])
def test_scores_are_those_of_the_language_model(models, variant):
    """From text to number: the tokens, the prompt, the sum over a choice's tokens."""
    model = models[variant]
    text = TEXTS[2]
    scores = predictor_of(model, "a", "b").score([text], CHOICES, "b")
    (ids,), _ = encode_inputs([text], model.tokenizer, model.config)
    choice = encode_choices(CHOICES, model.tokenizer, model.config)[1]
    assert len(choice) == 2
    vectors = PROMPTS["b"].vectors
    if model.is_encoder_decoder:
        assert ids[-1] == 1  # </s>
        decoder_ids = [[model.config.decoder_start_id, choice[0]]]
        logits = model.logits([ids], None, decoder_ids, vectors)[0]
    else:
        logits = model.logits([ids + choice], prompt=vectors)[0, len(ids) - 1 : -1]
    logits = np.asarray(logits, np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = log_probs[0, choice[0]] + log_probs[1, choice[1]]
    np.testing.assert_allclose(scores[0, 1], expected, atol=2e-5)


def test_neither_batch_size_nor_order_matters(models):
    model = models["gpt2"]
    whole = predictor_of(model, "a", "b", "c", batch_size=16, max_shapes=1)
    parts = predictor_of(model, "a", "b", "c", batch_size=2, max_shapes=2)
    scores = whole.score(TEXTS, CHOICES, NAMES)
    np.testing.assert_allclose(parts.score(TEXTS, CHOICES, NAMES), scores, atol=1e-5, rtol=0)
    reverse = whole.score(TEXTS[::-1], CHOICES, NAMES[::-1])
    np.testing.assert_allclose(reverse[::-1], scores, atol=1e-5, rtol=0)
    answers = whole.generate(TEXTS, NAMES, max_new_tokens=4)
    assert parts.generate(TEXTS, NAMES, max_new_tokens=4) == answers
    assert whole.generate(TEXTS[::-1], NAMES[::-1], max_new_tokens=4)[::-1] == answers


def test_names(models):
    model = models["gpt2"]
    single = predictor_of(model, "a")
    scores = single.score(TEXTS[:2], CHOICES)
    for names in ("a", ["a", "a"], ("a", "a")):
        np.testing.assert_array_equal(single.score(TEXTS[:2], CHOICES, names), scores)
    several = predictor_of(model, "a", "b")
    for call in (
        lambda names: several.score(TEXTS[:2], CHOICES, names),
        lambda names: several.generate(TEXTS[:2], names),
    ):
        with pytest.raises(UserError, match=r"several prompts \(a, b\)"):
            call(None)
        with pytest.raises(UserError, match="no prompt 'c'; this predictor has a, b"):
            call("c")
        with pytest.raises(UserError, match="no prompt 'd'"):
            call(["a", "d"])
        for names in (["a"], ["a", "b", "a"], []):
            with pytest.raises(UserError, match=f"2 texts but {len(names)} prompts"):
                call(names)


@pytest.mark.parametrize("variant", ["t5", "gpt2"])
def test_no_texts(models, variant):
    predictor = predictor_of(models[variant], "a")
    assert predictor.generate([]) == []
    assert predictor.score([], CHOICES).shape == (0, len(CHOICES))


def test_mistakes(models):
    model = models["gpt2"]
    predictor = predictor_of(model, "a")
    for max_new_tokens in (0, -1):
        with pytest.raises(UserError, match="must be at least 1"):
            predictor.generate(TEXTS, max_new_tokens=max_new_tokens)
    for call in (predictor.generate, lambda texts: predictor.score(texts, CHOICES)):
        with pytest.raises(UserError, match="give a list of strings"):
            call("the movie")
        with pytest.raises(UserError, match=r"Input 1 \(counted from 0\) is ''"):
            call(["the movie", ""])
        with pytest.raises(UserError, match="reads 512 at most; shorten the texts"):
            call(["the " * 510])
    with pytest.raises(UserError, match="no choices"):
        predictor.score(TEXTS, [])
    with pytest.raises(UserError, match="same tokens"):
        predictor.score(TEXTS, ["good", "good "])
    with pytest.raises(UserError, match="give a list of strings"):
        predictor.score(TEXTS, "good")
    with pytest.raises(UserError, match="at least one prompt"):
        Predictor(model, {})
    with pytest.raises(UserError, match=r"12 wide.*is 32 wide"):
        Predictor(model, {"a": PROMPTS["a"], "narrow": SoftPrompt(jnp.zeros((3, 12)))})


def test_the_longest_text_that_gpt2_reads(models):
    """Prompt (6), text and answer fill its 512 positions."""
    predictor = predictor_of(models["gpt2"], "a")
    assert len(predictor.generate(["the " * 504], max_new_tokens=2)) == 1
    with pytest.raises(UserError, match="513 tokens together"):
        predictor.generate(["the " * 505], max_new_tokens=2)


def test_load(folders, models, tmp_path):
    for name in ("a", "b"):
        PROMPTS[name].save(tmp_path / name)
    paths = {"a": tmp_path / "a", "b": str(tmp_path / "b")}
    predictor = Predictor.load(str(folders["gpt2"]), paths)
    assert predictor.model.module.embedding[...].dtype == jnp.float32
    ours = predictor_of(models["gpt2"], "a", "b")
    np.testing.assert_array_equal(
        predictor.score(TEXTS[:2], CHOICES, ["a", "b"]), ours.score(TEXTS[:2], CHOICES, ["a", "b"])
    )
    half = Predictor.load(str(folders["gpt2"]), paths, "bfloat16")
    assert half.model.module.embedding[...].dtype == jnp.bfloat16
    scores = half.score(TEXTS[:2], CHOICES, ["a", "b"])
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_a_missing_prompt_is_told_before_the_model_is_looked_for(tmp_path):
    with pytest.raises(UserError, match="There is no prompt in"):
        Predictor.load("/no/such/model", {"a": tmp_path / "absent"})
