"""The models that come with the package are what their folders say, for transformers too."""

import json

import numpy as np
import pytest
import torch
import transformers
from torch_reference import torch_logits

import softprompt_jax
from softprompt_jax.models.families import parameter_count
from softprompt_jax.models.loading import OWN
from softprompt_jax.pretraining.family import GROWN, NAMES

TEXT = "The old man and his dog went down to the river, and when they came to the bridge"


def test_all_are_of_the_family_and_small():
    assert set(OWN) <= set(NAMES)
    files = [path for folder in OWN.values() for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= 30e6


@pytest.fixture(params=sorted(OWN))
def name(request):
    return request.param


def test_transformers_gives_the_same_logits(name):
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(
        OWN[name], dtype=torch.float32, attn_implementation="eager"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(OWN[name])
    ours = softprompt_jax.load_model(name)
    ids = np.array([tokenizer(TEXT)["input_ids"]], np.int32)
    assert ids.tolist() == [ours.tokenizer(TEXT)["input_ids"]]
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == TEXT
    decoder_ids = np.array([[0, *tokenizer("he saw")["input_ids"][:-1]]], np.int32)
    expected, _ = torch_logits(theirs, ids, None, decoder_ids)
    found = np.asarray(ours.logits(ids, decoder_input_ids=decoder_ids))
    assert np.abs(found - expected).max() <= 1e-4
    assert parameter_count(ours.config) == sum(x.numel() for x in theirs.parameters())


def test_the_curve_and_the_card_are_of_this_model(name):
    lines = [json.loads(line) for line in (OWN[name] / "curve.jsonl").read_text().splitlines()]
    for objective in ("span_corruption", "prefix_lm"):
        perplexities = [line["perplexity"] for line in lines if line["objective"] == objective]
        assert len(perplexities) >= (3 if name in GROWN else 8)
        assert perplexities[-1] < perplexities[0]
    count = parameter_count(softprompt_jax.load_model(name).config)
    card = (OWN[name] / "README.md").read_text()
    assert f"{count / 1e6:.1f} million parameters" in card
    sources = json.loads((OWN[name] / "corpus.json").read_text())
    assert "licen" in json.dumps(sources).lower()
