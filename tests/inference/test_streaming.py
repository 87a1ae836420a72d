"""Pieces of answers as they come, whatever the tokenizer does to spaces."""

import types

import numpy as np
import pytest
from lively_models import make_lively, random_prompt
from small_runs import ONE_LAYER

from softprompt_jax.inference import streaming
from softprompt_jax.inference.compiled import Search
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt

TEXTS = ["the movie was good", "bad", "a question of the context", "blue sky"]
SAID = "it is good , and not bad . the end of it"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(str(make_lively(tmp_path_factory.mktemp("m"), "t5", **ONE_LAYER["t5"])))


@pytest.fixture
def says(monkeypatch, model):
    """Lets the model say these ids, and gives the answer and its pieces."""

    def say(ids, tokenizer):
        class Decodes:
            def __init__(self, step):
                self.step, self.ids = step, np.array([ids])
                self.ended = types.SimpleNamespace(sharding=None)

            def _replace(self, **_):
                return self

        told = types.SimpleNamespace(
            start=lambda *_: Decodes(0),
            advance=lambda *given: Decodes(min(given[3].step + int(given[4]), len(ids))),
        )
        devices = types.SimpleNamespace(
            device_put=lambda array, _: array,
            device_get=lambda got: (got[0], got[1], np.array([got[0] == len(ids)])),
        )
        monkeypatch.setattr(streaming, "compiled", told)
        monkeypatch.setattr(streaming, "jax", devices)
        speaker = types.SimpleNamespace(tokenizer=tokenizer, config=model.config)
        pieces = []
        (answer,) = streaming.generate_in_steps(
            None,
            Search(len(ids)),
            (None, None),
            {},
            None,
            np.array([7]),
            speaker,
            (),
            lambda place, piece: pieces.append((place, piece)),
        )
        assert {place for place, _ in pieces} == {7}
        return answer, [piece for _, piece in pieces]

    return say


@pytest.mark.parametrize("cleans", [False, True])
def test_a_tokenizer_that_cleans_up_spaces(model, says, cleans, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "clean_up_tokenization_spaces", cleans)
    ids = model.tokenizer(SAID)["input_ids"]
    # It would take the spaces out: a piece that was told is no beginning of that text any more.
    assert (model.tokenizer.decode(ids[:-1]) == SAID) != cleans
    answer, pieces = says(ids, model.tokenizer)
    assert answer == SAID
    assert "".join(pieces) == SAID
    assert len(pieces) > 3


def test_a_decoder_that_sees_earlier_text_in_another_light(model, says):
    class Capitals:
        """From eight words on the first one is spelled otherwise, and longer."""

        @staticmethod
        def batch_decode(rows, **options):
            (text,) = model.tokenizer.batch_decode(rows, **options)
            return [text.replace("it is", "It's so") if len(text.split()) > 7 else text]

    ids = model.tokenizer(SAID)["input_ids"]
    answer, pieces = says(ids, Capitals())
    assert answer == SAID.replace("it is", "It's so")
    assert len(pieces) > 3
    assert "".join(pieces).endswith(answer)  # nothing of it is kept back


def test_on_text_is_called_with_the_place_in_texts(model):
    prompt = SoftPrompt(random_prompt(4))
    predictor = Predictor(model, {"one": prompt}, devices=1, batch_size=2)
    options = {"max_new_tokens": 6, "temperature": 1.5, "numbers": [40, 30, 20, 10]}
    told = dict.fromkeys(range(len(TEXTS)), "")

    def on_text(place, piece):
        told[place] += piece

    answers = predictor.generate(TEXTS, on_text=on_text, **options)
    assert len(set(answers)) > 1
    assert [told[place].strip() for place in range(len(TEXTS))] == answers
