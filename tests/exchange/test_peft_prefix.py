"""PEFT's prefix tuning: its prefixes in our models and ours in its, with equal logits."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from lively_models import compiled, load_torch, make_lively, pad, random_rows

import softprompt_jax as sp
from softprompt_jax.exchange import read_any_prompt, read_prompt
from softprompt_jax.prompts.prompted_model import target_logits
from softprompt_jax.prompts.reparameterizations import (
    DecomposedPrompt,
    EncoderDecoderPrefix,
    LayerPrefix,
)
from softprompt_jax.prompts.unfolded_prompt import UnfoldedPrompt

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")

# transformers' own deprecations, which PEFT runs into.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.{name}. is deprecated:FutureWarning")
    for name in ("is_gradient_checkpointing", "past_key_values")
]

LENGTH = 5
INPUTS, TARGETS = random_rows((7, 3, 5), seed=1), random_rows((4, 2, 3), seed=2)


@pytest.fixture(scope="module", params=["t5", "gpt2", "llama"])
def base(request, tmp_path_factory):
    # Of three layers each has a prefix of its own in PEFT's T5 too.
    layers = {"num_layers": 3, "num_decoder_layers": 3} if request.param == "t5" else {}
    folder = make_lively(tmp_path_factory.mktemp("base"), request.param, seed=3, **layers)
    return SimpleNamespace(family=request.param, folder=folder, model=sp.load_model(str(folder)))


def their_adapter(base, folder, **options):
    """A PEFT model with a random prefix, saved."""
    torch.manual_seed(5)
    task_type = "SEQ_2_SEQ_LM" if base.family == "t5" else "CAUSAL_LM"
    config = peft.PrefixTuningConfig(task_type=task_type, num_virtual_tokens=LENGTH, **options)
    model = peft.get_peft_model(load_torch(base.folder), config).eval()
    model.save_pretrained(folder)
    return model


def theirs(model):
    """PEFT's logits at the targets."""
    seq2seq = model.config.is_encoder_decoder
    texts = INPUTS if seq2seq else [i + t for i, t in zip(INPUTS, TARGETS, strict=True)]
    ids, mask = pad(texts)
    options = {}
    if seq2seq:
        labels, label_mask = pad(TARGETS)
        options["labels"] = torch.tensor(np.where(label_mask, labels, -100)).long()
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(ids).long(),
            attention_mask=torch.tensor(mask).long(),
            **options,
        ).logits.numpy()
    first = [0 if seq2seq else len(text) - 1 for text in INPUTS]
    return [
        row[start : start + len(target)]
        for row, start, target in zip(logits, first, TARGETS, strict=True)
    ]


def ours(model, prompt):
    inputs, input_mask = pad(INPUTS)
    targets, target_mask = pad(TARGETS)
    batch = {"inputs": inputs, "input_mask": input_mask, "targets": targets}
    logits = compiled(target_logits, model, batch, prompt.served)
    return [row[mask] for row, mask in zip(logits, target_mask, strict=True)]


def assert_alike(our_logits, their_logits):
    for row, expected in zip(our_logits, their_logits, strict=True):
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(row, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def tensor_of(folder):
    (tensor,) = safetensors.numpy.load_file(Path(folder) / "adapter_model.safetensors").values()
    return tensor


@pytest.fixture
def export(monkeypatch, capfd):
    """The command: its status, and what it says on standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["softprompt_jax.export", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("softprompt_jax.export", run_name="__main__")
        return stop.value.code, capfd.readouterr().err

    return run


@pytest.mark.parametrize("projected", [False, True])
def test_round_trip(base, projected, export, tmp_path):
    options = {"prefix_projection": True, "encoder_hidden_size": 24} if projected else {}
    model = their_adapter(base, tmp_path / "theirs", **options)
    prompt = sp.import_peft(tmp_path / "theirs", model=base.model)
    assert isinstance(prompt, UnfoldedPrompt)
    assert prompt.length == LENGTH
    assert prompt.card["peft"]["peft_type"] == "PREFIX_TUNING"
    expected = theirs(model)
    assert_alike(ours(base.model, prompt), expected)
    without = theirs(model.get_base_model())
    assert np.abs(without[0] - expected[0]).max() > 0.1
    prompt.save(tmp_path / "kept")
    with pytest.raises(sp.UserError, match="which is more than vectors"):
        read_prompt(tmp_path / "theirs")

    if base.family == "t5":
        assert isinstance(prompt.module, EncoderDecoderPrefix)
        assert prompt.module.encoder is None
        with pytest.raises(sp.UserError, match="which gives T5's encoder none"):
            sp.export_peft(prompt, tmp_path / "ours", model=base.model)
        assert not (tmp_path / "ours").exists()
        return
    assert export(tmp_path / "kept", "--peft", tmp_path / "ours") == (0, "")
    assert tensor_of(tmp_path / "ours").tobytes() == tensor_of(tmp_path / "theirs").tobytes()
    configs = [
        json.loads((tmp_path / name / "adapter_config.json").read_text())
        for name in ("ours", "theirs")
    ]
    if projected:  # what computed the prefix is gone
        configs[1] |= {"prefix_projection": False, "encoder_hidden_size": configs[0]["token_dim"]}
    assert configs[0] == configs[1]
    again = peft.PeftModel.from_pretrained(load_torch(base.folder), str(tmp_path / "ours")).eval()
    assert_alike(theirs(again), expected)
    back = read_any_prompt(tmp_path / "ours", model=base.model)
    assert isinstance(back, UnfoldedPrompt)
    assert back.card["peft"] == prompt.card["peft"]
    for name, tensor in prompt.tensors.items():
        np.testing.assert_array_equal(back.tensors[name], tensor)
    readme = (tmp_path / "ours" / "README.md").read_text()
    assert f"Keys and values of {LENGTH} virtual tokens in every layer" in readme


def test_pefts_t5_of_two_layers_has_one_prefix_for_both(tmp_path):
    folder = make_lively(tmp_path / "t5", "t5", num_layers=2, num_decoder_layers=2)
    base = SimpleNamespace(family="t5", folder=folder, model=sp.load_model(str(folder)))
    model = their_adapter(base, tmp_path / "theirs")
    prompt = sp.import_peft(tmp_path / "theirs", model=base.model)
    keys = prompt.tensors["decoder.keys"]
    np.testing.assert_array_equal(keys[0], keys[1])
    assert_alike(ours(base.model, prompt), theirs(model))


# ------------------------------------------------------------------------------ what is refused


@pytest.fixture
def adapter(tmp_path):
    prompt = UnfoldedPrompt(LayerPrefix(jnp.ones((2, 4, 3, 8)), jnp.ones((2, 4, 3, 8))))
    sp.export_peft(prompt, tmp_path / "adapter", model=gpt2())
    return tmp_path / "adapter"


def gpt2(**changes):
    from softprompt_jax.models.gpt2 import GPT2Config

    sizes = {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4, "d_ff": 64}
    config = GPT2Config(**{**sizes, "max_positions": 64, **changes})
    return SimpleNamespace(name="tiny", config=config)


def test_another_model(adapter):
    assert sp.import_peft(adapter, model=gpt2()).length == 3
    for changes in ({"n_layers": 3}, {"n_heads": 2}, {"d_model": 64}):
        with pytest.raises(sp.UserError, match="whose shape is not that of tiny"):
            sp.import_peft(adapter, model=gpt2(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": None}, "does not say num_layers"),
        ({"num_attention_heads": None}, "does not say num_layers"),
        ({"token_dim": None}, "does not say num_layers"),
        ({"num_attention_heads": 5}, "a multiple of the heads"),
        ({"num_layers": 3}, r"says \[3, 192\]"),
        ({"num_virtual_tokens": 4}, r"says \[4, 128\]"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "confuses the prefix with the input"),
        ({"num_transformer_submodules": 2}, "has 1 at most"),
        ({"prompt_tuning_init": "TEXT"}, "does not know"),
    ],
)
def test_configs_that_contradict(adapter, changes, message):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(sp.UserError, match=message):
        sp.import_peft(adapter)


def test_what_has_no_place_elsewhere(adapter, export, tmp_path):
    dept = DecomposedPrompt(jnp.ones((2, 32)), jnp.ones((5, 2)), jnp.ones((2, 32)))
    UnfoldedPrompt(dept, {"model": "tiny"}).save(tmp_path / "dept")
    with pytest.raises(sp.UserError, match="which no adapter of PEFT does"):
        sp.export_peft(UnfoldedPrompt(dept), tmp_path / "out", model=gpt2())
    status, told = export(tmp_path / "dept", "--npy", tmp_path / "out.npy")
    assert status == 2
    assert "--npy takes vectors, but this 'dept' prompt is more than vectors; leave it" in told
    assert export(adapter, "--prompt", tmp_path / "again") == (0, "")
    assert read_any_prompt(tmp_path / "again").length == 3
    assert not (tmp_path / "out.npy").exists()
