"""Prompts that come and go while texts are answered, and prompts that cannot come."""

import threading

import jax.numpy as jnp
import numpy as np
import pytest
from lively_models import make_lively, random_prompt
from small_runs import ONE_LAYER

from softprompt_jax.errors import UserError
from softprompt_jax.inference import compiled, places
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt

PROMPTS = {
    name: SoftPrompt(jnp.asarray(random_prompt(length, seed)))
    for name, length, seed in (("a", 6, 0), ("b", 2, 1), ("c", 6, 2), ("long", 9, 5))
}
TEXTS = ["the movie was good"] * 6
CHOICES = ["positive", "not good", "true"]
POSITIONS = 40


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    overrides = {"mistral": {}, "t5": ONE_LAYER["t5"]}
    overrides["gpt2"] = ONE_LAYER["gpt2"] | {"n_positions": POSITIONS}
    return {
        variant: load_model(str(make_lively(tmp_path_factory.mktemp("m"), variant, **options)))
        for variant, options in overrides.items()
    }


def predictor_of(model, *names):
    return Predictor(model, {name: PROMPTS[name] for name in names}, devices=1, batch_size=2)


def reuse_a_place(predictor):
    predictor.remove("a")
    predictor.remove("b")
    predictor.add("new", PROMPTS["c"])
    predictor.add("other", PROMPTS["a"])


def grow(predictor):
    predictor.remove("a")
    predictor.add("long", PROMPTS["long"])  # longer places
    for i in range(4):
        predictor.add(f"more {i}", PROMPTS["a"])  # more places


def replace(predictor):
    predictor.add("b", PROMPTS["c"])


@pytest.mark.parametrize("variant", ["t5", "mistral"])
@pytest.mark.parametrize("change", [reuse_a_place, grow, replace])
def test_a_call_keeps_the_prompts_that_it_began_with(models, variant, change, monkeypatch):
    model = models[variant]
    predictor = predictor_of(model, "a", "b", "c")
    alone = predictor_of(model, "b")
    expected = alone.generate(TEXTS[:1], max_new_tokens=6) * len(TEXTS)
    assert predictor.generate(TEXTS[:1], "c", max_new_tokens=6) != expected[:1]
    changed = []

    def on_text(place, piece):
        if not changed:
            changed.append(piece)
            change(predictor)

    assert predictor.generate(TEXTS, "b", max_new_tokens=6, on_text=on_text) == expected
    assert changed

    # Likewise of scores, those of the content-free text included.
    predictor = predictor_of(model, "a", "b", "c")
    expected = alone.score(TEXTS, CHOICES, content_free="the question")
    score = compiled.score
    calls = []

    def change_first(*arguments):
        if not calls:
            change(predictor)
        calls.append(arguments)
        return score(*arguments)

    monkeypatch.setattr(compiled, "score", change_first)
    scores = predictor.score(TEXTS, CHOICES, "b", content_free="the question")
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
    assert len(calls) == 4


@pytest.mark.parametrize("variant", ["t5", "gpt2"])
def test_growing_keeps_every_prompt_in_its_place(models, variant):
    model = models[variant]
    predictor = predictor_of(model, "a", "b", "c")
    predictor.remove("a")
    before = dict(predictor._places.now.places)
    assert before == {"b": 1, "c": 2}
    predictor.add("long", PROMPTS["long"])
    for i in range(4):
        predictor.add(f"more {i}", PROMPTS["a"])
    now = predictor._places.now.places
    assert now == {**before, "long": 0, "more 0": 3, "more 1": 4, "more 2": 5, "more 3": 6}
    for name in ("b", "c", "long", "more 3"):
        alone = predictor_of(model, "a" if name == "more 3" else name)
        np.testing.assert_allclose(
            predictor.score(TEXTS[:1], CHOICES, name),
            alone.score(TEXTS[:1], CHOICES),
            atol=1e-5,
            rtol=0,
        )


@pytest.mark.parametrize("variant", ["t5", "mistral"])
def test_one_thread_adds_while_another_scores(models, variant):
    predictor = predictor_of(models[variant], "a", "b")
    expected = predictor.score(TEXTS, CHOICES, "b")
    stop = threading.Event()
    added, failed = [], []

    def change(name, prompt):
        try:
            while not stop.is_set():
                predictor.add(name, prompt)
                predictor.remove(name)
                predictor.add("a", PROMPTS["a"])  # both threads replace it
                added.append(name)
        except Exception as error:
            failed.append(error)

    threads = [
        threading.Thread(target=change, args=("c", PROMPTS["c"])),
        threading.Thread(target=change, args=("d", PROMPTS["b"])),
    ]
    for thread in threads:
        thread.start()
    try:
        while not failed and min(added.count("c"), added.count("d")) < 20:
            np.testing.assert_array_equal(predictor.score(TEXTS, CHOICES, "b"), expected)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert list(predictor.prompts) == ["a", "b"]


def test_an_add_that_fails_changes_nothing(models, monkeypatch):
    model = models["gpt2"]
    predictor = predictor_of(model, "a", "b", "c")
    scores = predictor.score(TEXTS[:1], CHOICES, "b")
    for length in (POSITIONS, POSITIONS + 5):
        huge = SoftPrompt(jnp.asarray(random_prompt(length)))
        message = rf"^Prompt huge has {length} virtual tokens, but .* reads {POSITIONS} at most"
        with pytest.raises(UserError, match=message):
            predictor.add("huge", huge)
        with pytest.raises(UserError, match=message):
            Predictor(model, {"huge": huge}, devices=1)
    with pytest.raises(UserError, match="is 5 wide"):
        predictor.add("narrow", SoftPrompt(jnp.zeros((2, 5))))

    def no_memory(*_):
        raise MemoryError

    for name, new in (("put", PROMPTS["a"]), ("bank_of_one", PROMPTS["long"])):
        with monkeypatch.context() as patch:
            patch.setattr(compiled, name, no_memory)
            with pytest.raises(MemoryError):
                predictor.add("new", new)
    with monkeypatch.context() as patch:
        patch.setattr(places, "grow_bank", no_memory)
        with pytest.raises(MemoryError):
            predictor.add("new", PROMPTS["long"])
    assert list(predictor.prompts) == ["a", "b", "c"]
    np.testing.assert_array_equal(predictor.score(TEXTS[:1], CHOICES, "b"), scores)

    longest = SoftPrompt(jnp.asarray(random_prompt(POSITIONS - 1)))
    for i, new in enumerate([PROMPTS["a"], PROMPTS["long"], longest]):  # each but the first grows
        predictor.add(f"new {i}", new)
        alone = Predictor(model, {"new": new}, devices=1)
        text, choices = [[5]], ["a"]
        if new is longest:
            with pytest.raises(UserError, match="41 tokens together"):
                predictor.score(text, choices, f"new {i}")
            continue
        expected = alone.score(text, choices)
        found = predictor.score(text, choices, f"new {i}")
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(predictor.score(TEXTS[:1], CHOICES, "b"), scores, atol=1e-5, rtol=0)
