"""Texts, prompts and choices in arrays, and what is no text."""

import jax.numpy as jnp
import numpy as np
import pytest
from lively_models import make_lively, random_prompt
from small_runs import ONE_LAYER

from softprompt_jax.data import encode_inputs
from softprompt_jax.errors import UserError
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt

TEXTS = ["the movie was good", "bad", "a question of the context"]
NAMES = ["a", "b", "a"]
CHOICES = ["positive", "not good", "true"]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    model = load_model(str(make_lively(tmp_path_factory.mktemp("m"), "gpt2", **ONE_LAYER["gpt2"])))
    prompts = {
        name: SoftPrompt(jnp.asarray(random_prompt(length, length)))
        for name, length in (("a", 3), ("b", 2))
    }
    return Predictor(model, prompts, devices=1)


class Column:
    """A table's column: rows go by labels, and it is neither true nor false."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.values)

    def __getitem__(self, label):
        raise KeyError(label)

    def __bool__(self):
        raise ValueError("The truth value of a column is ambiguous.")


@pytest.mark.parametrize("kind", [np.array, lambda x: np.array(x, object), Column, tuple])
def test_columns(predictor, kind):
    scores = predictor.score(TEXTS, CHOICES, NAMES, content_free="the question")
    columns = kind(TEXTS), kind(CHOICES), kind(NAMES)
    found = predictor.score(*columns, content_free="the question")
    np.testing.assert_array_equal(found, scores)
    own = predictor.score(TEXTS, [CHOICES] * 3, NAMES)
    rows = [kind(CHOICES)] * 3
    np.testing.assert_array_equal(predictor.score(columns[0], rows, columns[2]), own)
    answers = predictor.generate(TEXTS, NAMES, 4, temperature=1.0, numbers=[3, 1, 2], stop=["dog"])
    numbers, stop = kind([3, 1, 2]), kind(["dog"])
    options = {"temperature": 1.0, "numbers": numbers, "stop": stop}
    assert predictor.generate(columns[0], columns[2], 4, **options) == answers
    assert predictor.input_lengths(columns[0]) == predictor.input_lengths(TEXTS)
    empty = kind([])
    assert predictor.generate(empty) == []
    assert predictor.score(empty, columns[1]).shape == (0, 3)


def test_an_array_of_ids_and_one_of_choices(predictor):
    ids = np.array([[5, 6, 7], [8, 9, 10]])
    choices = np.array([CHOICES, ["good", "bad", "blue"]])
    scores = predictor.score(ids, choices, "a")
    expected = predictor.score(ids.tolist(), choices.tolist(), "a")
    np.testing.assert_array_equal(scores, expected)


def test_no_stop_strings(predictor):
    answers = predictor.generate(TEXTS, NAMES, 4)
    assert predictor.generate(TEXTS, NAMES, 4, stop=None) == answers
    for stop in ([1], [None], np.array(["a", ""])):
        with pytest.raises(UserError, match="give a list of strings that are not empty"):
            predictor.generate(TEXTS, NAMES, 4, stop=stop)


@pytest.mark.parametrize("missing", [None, float("nan"), 3, {}])
def test_what_is_no_text(predictor, missing):
    (ids,), _ = encode_inputs(TEXTS[:1], predictor.model.tokenizer, predictor.model.config)
    for call in (
        lambda texts: predictor.generate(texts, "a"),
        lambda texts: predictor.score(texts, CHOICES, "a"),
        predictor.input_lengths,
    ):
        with pytest.raises(UserError, match=r"Input 0 \(counted from 0\) is no text and no ids"):
            call([missing])
        for first in (TEXTS[0], ids):
            with pytest.raises(UserError, match=r"Input 1 \(counted from 0\) is no text and no"):
                call([first, missing])
        with pytest.raises(UserError, match=r"Input 1 .* is a text, but input 0 is ids"):
            call([ids, TEXTS[0]])


def test_what_are_no_choices(predictor):
    for choices in (["good", None], [["good", 3]] * 3, [None] * 3):
        with pytest.raises(UserError, match="are not all strings; mend them"):
            predictor.score(TEXTS, choices, "a")
