"""The real peft package reads what we write, and we read what it writes: equal logits and loss."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from lively_models import compiled, load_torch, make_lively, pad, random_prompt, random_rows
from tiny_models import make_tiny

import softprompt_jax as sp
from softprompt_jax.prompts.prompted_model import target_logits

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")

# transformers' own deprecation, which PEFT runs into.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is dep:FutureWarning")

LENGTH = 6
# Input and target ids, which are padded on the right, or not at all.
PADDED = (random_rows((7, 3, 5), seed=1), random_rows((4, 2, 3), seed=2))
UNPADDED = (random_rows((7, 7, 7), seed=1), random_rows((4, 4, 4), seed=2))
LEFT_OUT = -100  # the label that torch's cross-entropy leaves out
KEYS = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "modules_to_save"),
    *("num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens"),
    *("peft_type", "peft_version", "prompt_tuning_init", "prompt_tuning_init_text", "revision"),
    *("task_type", "token_dim", "tokenizer_kwargs", "tokenizer_name_or_path"),
}


@pytest.fixture(scope="module", params=["t5", "gpt2", "llama"])
def base(request, tmp_path_factory):
    folder = make_lively(tmp_path_factory.mktemp("base"), request.param, seed=3)
    return SimpleNamespace(family=request.param, folder=folder, model=sp.load_model(str(folder)))


def theirs(model, rows):
    """PEFT's logits without virtual positions, and its loss; padded on the right."""
    inputs, targets = rows
    seq2seq = model.config.is_encoder_decoder
    texts = inputs if seq2seq else [i + t for i, t in zip(inputs, targets, strict=True)]
    labels = (
        targets
        if seq2seq
        else [[LEFT_OUT] * len(i) + t for i, t in zip(inputs, targets, strict=True)]
    )
    ids, mask = pad(texts)
    labels, label_mask = pad(labels)
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(ids).long(),
            attention_mask=torch.tensor(mask).long(),
            labels=torch.tensor(np.where(label_mask, labels, LEFT_OUT)).long(),
        )
    logits = output.logits.numpy()
    return (logits if seq2seq else logits[:, LENGTH:]), float(output.loss)


def ours(model, prompt, rows):
    """Our logits at the same positions, and the loss from what a training step computes."""
    inputs, targets = rows
    labels, label_mask = pad(targets)
    if model.is_encoder_decoder:
        ids, mask = pad(inputs)
        start = np.full((len(labels), 1), model.config.decoder_start_id)
        decoder_ids = np.concatenate([start, labels[:, :-1]], axis=1)
        logits = model.logits(ids, mask, decoder_ids, prompt)
    else:
        ids, mask = pad([i + t for i, t in zip(inputs, targets, strict=True)])
        logits = model.logits(ids, mask, prompt=prompt)
    ids, mask = pad(inputs)
    batch = {"inputs": ids, "input_mask": mask, "targets": labels, "target_mask": label_mask}
    scores = compiled(target_logits, model, batch, prompt.vectors).astype(np.float64)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    nll = -np.take_along_axis(scores, labels[..., None], axis=-1)[..., 0]
    return np.asarray(logits), nll[label_mask].mean()


def assert_alike(model, prompt, their_model):
    for rows in (PADDED, UNPADDED):
        _assert_alike(model, prompt, their_model, rows)


def _assert_alike(model, prompt, their_model, rows):
    logits, loss = ours(model, prompt, rows)
    their_logits, their_loss = theirs(their_model, rows)
    assert logits.shape == their_logits.shape
    if model.is_encoder_decoder:
        _, real = pad(rows[1])
    else:
        _, real = pad([i + t for i, t in zip(*rows, strict=True)])
    assert np.abs(their_logits[real]).max() > 1  # else the tolerance would mean little
    assert np.abs(logits - their_logits)[real].max() <= 1e-5 * np.abs(their_logits[real]).max()
    assert loss == pytest.approx(their_loss, abs=1e-5)


def load_theirs(base, folder):
    return peft.PeftModel.from_pretrained(load_torch(base.folder), str(folder)).eval()


def tensor_of(folder) -> np.ndarray:
    tensors = safetensors.numpy.load_file(Path(folder) / "adapter_model.safetensors")
    assert list(tensors) == ["prompt_embeddings"]
    return tensors["prompt_embeddings"]


def test_ours_to_peft(base, tmp_path):
    vectors = random_prompt(LENGTH, seed=4)
    prompt = sp.SoftPrompt(jnp.asarray(vectors), {"model": str(base.folder), "task": "boolq"})
    sp.export_peft(prompt, tmp_path / "adapter")
    assert tensor_of(tmp_path / "adapter").tobytes() == vectors.tobytes()
    model = load_theirs(base, tmp_path / "adapter")
    assert_alike(base.model, prompt, model)
    without = theirs(model.get_base_model(), PADDED)[1]
    assert abs(without - theirs(model, PADDED)[1]) > 1e-2  # PEFT does use the prompt
    # What PEFT saves of it again is ours again, bit for bit.
    model.save_pretrained(tmp_path / "again")
    again = sp.import_peft(tmp_path / "again", model=base.model)
    assert np.asarray(again.vectors).tobytes() == vectors.tobytes()
    back = sp.import_peft(tmp_path / "adapter")
    assert np.asarray(back.vectors).tobytes() == vectors.tobytes()
    assert back.card == prompt.card | {"format": 1, "length": LENGTH, "d_model": 32}


def test_the_config_is_what_peft_itself_would_write(base, tmp_path):
    prompt = sp.SoftPrompt(jnp.asarray(random_prompt(LENGTH)), {"model": str(base.folder)})
    sp.export_peft(prompt, tmp_path / "adapter", model=base.model)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert set(written) == KEYS
    task_type = "SEQ_2_SEQ_LM" if base.family == "t5" else "CAUSAL_LM"
    config = peft.PromptTuningConfig(
        task_type=task_type, num_virtual_tokens=LENGTH, num_transformer_submodules=1
    )
    model = peft.get_peft_model(load_torch(base.folder), config)
    model.save_pretrained(tmp_path / "theirs")
    theirs = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    assert written == theirs
    with safetensors.safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


KINDS = {
    "RANDOM": {"prompt_tuning_init": "RANDOM"},
    "SAMPLE_VOCAB": {"prompt_tuning_init": "SAMPLE_VOCAB"},
    "TEXT": {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "is the movie good"},
    "MLP": {"encoder_reparameterization_type": "MLP", "encoder_hidden_size": 24},
    "LSTM": {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 24},
}


@pytest.mark.parametrize("kind", KINDS)
def test_peft_to_ours(base, kind, tmp_path, capsys):
    options = dict(KINDS[kind])
    if kind == "TEXT":
        options["tokenizer_name_or_path"] = str(base.folder)
    config_class = peft.PromptEncoderConfig if kind in ("MLP", "LSTM") else peft.PromptTuningConfig
    task_type = "SEQ_2_SEQ_LM" if base.family == "t5" else "CAUSAL_LM"
    torch.manual_seed(5)
    config = config_class(task_type=task_type, num_virtual_tokens=LENGTH, **options)
    model = peft.get_peft_model(load_torch(base.folder), config)
    with torch.no_grad():  # as if it had been trained
        for weight in model.prompt_encoder.parameters():
            weight += 0.3 * torch.randn_like(weight)
    model.eval()
    model.save_pretrained(tmp_path / "adapter")
    stored = tensor_of(tmp_path / "adapter")
    assert len(stored) == (2 * LENGTH if base.family == "t5" else LENGTH)

    prompt = sp.import_peft(tmp_path / "adapter", model=base.model)
    told = capsys.readouterr().err
    assert ("the second half, and it is left out" in told) == (base.family == "t5")
    assert np.asarray(prompt.vectors).tobytes() == stored[:LENGTH].tobytes()
    assert_alike(base.model, prompt, model)
    assert prompt.card["model"] == str(base.folder)
    assert prompt.card["peft"]["task_type"] == task_type

    sp.export_peft(prompt, tmp_path / "again")
    assert tensor_of(tmp_path / "again").tobytes() == stored[:LENGTH].tobytes()
    loaded, again = (load_theirs(base, tmp_path / name) for name in ("adapter", "again"))
    np.testing.assert_array_equal(theirs(again, PADDED)[0], theirs(loaded, PADDED)[0])


def test_left_padding_is_the_one_difference(base, tmp_path):
    """What the model card says of PEFT: padding between prompt and text changes its answers."""
    vectors = random_prompt(LENGTH, seed=4)
    sp.export_peft(
        sp.SoftPrompt(jnp.asarray(vectors), {"model": str(base.folder)}), tmp_path / "adapter"
    )
    model = load_theirs(base, tmp_path / "adapter")
    (row,) = random_rows((5,), seed=1)
    start = [[0]] if base.family == "t5" else None
    their_start = {} if start is None else {"labels": torch.tensor([[7]])}
    answers = []
    for width in (5, 8):
        ids, mask = pad([row], side="left", width=width)
        with torch.no_grad():
            output = model(
                input_ids=torch.tensor(ids).long(),
                attention_mask=torch.tensor(mask).long(),
                **their_start,
            )
        answers.append((base.model.logits(ids, mask, start, vectors)[0, -1], output.logits[0, -1]))
    (our_alone, their_alone), (our_padded, their_padded) = answers
    np.testing.assert_allclose(our_padded, our_alone, atol=1e-5)
    np.testing.assert_allclose(our_alone, their_alone.numpy(), atol=1e-4)
    assert float((their_padded - their_alone).abs().max()) > 1e-2


# ------------------------------------------------------------------------- other forms of a folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = make_tiny(tmp_path_factory.mktemp("small"), "gpt2", n_layer=1)
    return str(folder)


@pytest.fixture
def adapter(small, tmp_path):
    prompt = sp.SoftPrompt(jnp.asarray(random_prompt(LENGTH)), {"model": small, "labels": ["a"]})
    sp.export_peft(prompt, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_adapter_model_bin(adapter, dtype, legacy):
    values = torch.tensor(tensor_of(adapter)).to(getattr(torch, dtype))
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(
        {"prompt_embeddings": values},
        adapter / "adapter_model.bin",
        _use_new_zipfile_serialization=not legacy,
    )
    prompt = sp.import_peft(adapter)
    assert prompt.vectors.dtype == jnp.float32
    np.testing.assert_array_equal(prompt.vectors, values.float().numpy())


def test_the_card_of_vectors_that_have_changed_since(adapter, capsys):
    assert sp.import_peft(adapter).card["labels"] == ["a"]
    assert capsys.readouterr().err == ""
    changed = tensor_of(adapter) * 2
    safetensors.numpy.save_file(
        {"prompt_embeddings": changed}, adapter / "adapter_model.safetensors"
    )
    prompt = sp.import_peft(adapter)
    assert "describes other vectors" in capsys.readouterr().err
    assert "labels" not in prompt.card
    assert prompt.card["peft"] == {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "prompt_tuning_init": "RANDOM",
    }


def test_the_revision_of_the_base_model_is_kept(adapter, small, tmp_path):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": "v2"}))
    (adapter / "prompt.json").unlink()
    prompt = sp.import_peft(adapter)
    assert prompt.card["model_revision"] == "v2"
    sp.export_peft(prompt, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["revision"] == "v2"


def test_an_export_replaces_an_export_and_nothing_else(adapter, small, tmp_path):
    prompt = sp.SoftPrompt(jnp.asarray(random_prompt(2)), {"model": small})
    sp.export_peft(prompt, adapter)
    assert len(sp.import_peft(adapter).vectors) == 2
    (tmp_path / "empty").mkdir()
    sp.export_peft(prompt, tmp_path / "empty")

    theirs = shutil.copytree(adapter, tmp_path / "theirs")
    (theirs / "prompt.json").unlink()
    trained = shutil.copytree(adapter, tmp_path / "trained")
    (trained / "optimizer.pt").write_bytes(b"hours of work")
    best = tmp_path / "best"
    prompt.save(best)
    file = tmp_path / "file"
    file.write_text("text")
    for target in (theirs, trained, best, file):
        before = {p: p.read_bytes() for p in [target, *target.glob("*")] if p.is_file()}
        with pytest.raises(sp.UserError, match="holds something else than an exported prompt"):
            sp.export_peft(prompt, target)
        assert before == {p: p.read_bytes() for p in [target, *target.glob("*")] if p.is_file()}


def test_the_old_export_stays_whole_when_writing_fails(adapter, small, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        sp.export_peft(sp.SoftPrompt(jnp.zeros((2, 32)), {"model": small}), adapter)
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before
    assert [path.name for path in adapter.parent.iterdir()] == ["adapter"]


def test_what_cannot_be_exported(small, tmp_path):
    target = tmp_path / "adapter"

    def told(vectors, card, **options):
        with pytest.raises(sp.UserError) as caught:
            sp.export_peft(sp.SoftPrompt(jnp.asarray(vectors), card), target, **options)
        assert list(tmp_path.iterdir()) == []
        return str(caught.value)

    good, card = random_prompt(2), {"model": small}
    assert "names no model" in told(good, {})
    assert "There is no folder" in told(good, {"model": "./nowhere/at all"})
    assert "The prompt is 16 wide" in told(random_prompt(2, width=16), card)
    assert "not finite" in told(np.where(good > 0, np.nan, good), card)
    assert "[0, 32]" in told(good[:0], card)


def test_the_built_in_model_has_a_name_on_the_hub(small, tmp_path):
    prompt = sp.SoftPrompt(jnp.asarray(random_prompt(2)), {"model": "smollm2-135m"})
    files = sp.load_model(small)
    for name, options in (("a", {}), ("b", {"base_model": "me/copy"})):
        sp.export_peft(prompt, tmp_path / name, model=files, **options)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "4-bit copy" in (tmp_path / "a" / "README.md").read_text()
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/copy"
