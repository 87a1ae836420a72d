"""DePT and prefixes in a model, against torch, and in folders."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from lively_models import (
    CAUSAL,
    compiled,
    load_torch,
    make_lively,
    pad,
    random_prompt,
    random_rows,
)

from softprompt_jax.data.tokenization import pad_rows
from softprompt_jax.errors import UserError
from softprompt_jax.inference.beam_search import beam_search
from softprompt_jax.inference.decoding import greedy
from softprompt_jax.inference.scoring import choice_log_likelihoods
from softprompt_jax.models import load_model
from softprompt_jax.models.layers import Dropout
from softprompt_jax.prompts.prompted_model import (
    PromptedModel,
    add_offsets,
    encode,
    target_logits,
)
from softprompt_jax.prompts.reparameterizations import (
    DecomposedPrompt,
    EncoderDecoderPrefix,
    LayerPrefix,
    reparameterize,
)
from softprompt_jax.prompts.soft_prompt import SoftPrompt
from softprompt_jax.prompts.unfolded_prompt import UnfoldedPrompt, load_prompt

LENGTH, POSITIONS, RANK, WIDTH = 3, 5, 2, 32
# The first is longer than there are offsets, the others are padded.
INPUTS, TARGETS = random_rows((7, 2, 4), seed=1), random_rows((3, 1, 2), seed=2)
CHOICES = [[5, 6, 7], [90], [30, 31]]
NEW = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for variant in ("t5", *CAUSAL):
        layers = {"num_layers": 2, "num_decoder_layers": 2} if variant == "t5" else {}
        made[variant] = make_lively(tmp_path_factory.mktemp("m"), variant, **layers)
    return made


@pytest.fixture(scope="module")
def models(folders):
    return {variant: load_model(str(folder)) for variant, folder in folders.items()}


def start():
    return jnp.asarray(random_prompt(LENGTH))


def fresh(kind, model):
    options = {"positions": POSITIONS, "rank": RANK, "model": model.module}
    return reparameterize(kind, start(), jax.random.key(0), **options)


def made(kind, model, seed=0):
    """With every parameter moved, and each layer's by itself."""
    graphdef, state = nnx.split(fresh(kind, model))
    generator = np.random.default_rng(seed)
    shake = lambda x: x + jnp.asarray(generator.normal(0, 0.5, x.shape), jnp.float32)  # noqa: E731
    return nnx.merge(graphdef, jax.tree.map(shake, state))


def batch_of():
    inputs, input_mask = pad(INPUTS)
    targets, target_mask = pad(TARGETS)
    return {
        "inputs": inputs,
        "input_mask": input_mask,
        "targets": targets,
        "target_mask": target_mask,
        "prompt_ids": np.zeros(len(INPUTS), np.int32),
    }


def trained_logits(module, prompt, batch):
    return PromptedModel(module, prompt).target_logits(batch)


# --- At the start ----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["t5", "llama", "gpt2"])
def test_dept_starts_as_the_plain_prompt(models, variant):
    prompt = fresh("dept", models[variant])
    logits = compiled(trained_logits, models[variant], prompt, batch_of())
    plain = compiled(trained_logits, models[variant], start(), batch_of())
    np.testing.assert_allclose(logits, plain, atol=5e-6, rtol=0)  # fused otherwise
    embedded = models[variant].module.embed(batch_of()["inputs"])
    mask = batch_of()["input_mask"]
    np.testing.assert_array_equal(add_offsets(prompt.served, embedded, mask), embedded)
    # A is not zero, so that B has a gradient; as wide as the authors' start.
    assert 0.5 < np.abs(prompt.offset_a[...]).max() * RANK**0.5 <= 1


@pytest.mark.parametrize("variant", CAUSAL)
def test_a_prefix_starts_as_the_plain_prompt(models, variant):
    prompt = fresh("prefix", models[variant])
    logits = compiled(trained_logits, models[variant], prompt, batch_of())
    plain = compiled(trained_logits, models[variant], start(), batch_of())
    assert np.abs(plain).max() > 1
    np.testing.assert_allclose(logits, plain, atol=2e-5, rtol=0)


def test_an_encoders_prefix_stands_where_a_plain_prompt_does(tmp_path):
    """Of one layer, whose keys and values know nothing of the text."""
    model = load_model(str(make_lively(tmp_path, "t5")))
    prompt = fresh("prefix", model)
    batch = batch_of()

    def encoded(module, prompt):
        return encode(module, batch["inputs"], batch["input_mask"], prompt)[0]

    prefixed = compiled(encoded, model, prompt.served)
    plain = compiled(encoded, model, start())[:, LENGTH:]
    without = compiled(encoded, model, None)
    mask = batch["input_mask"]
    np.testing.assert_allclose(prefixed[mask], plain[mask], atol=1e-5)
    assert np.abs(plain - without)[mask].max() > 0.1


# --- Against torch ---------------------------------------------------------------------------


class Torch:
    """transformers' model of one row at a time, with the prompt put in by hand."""

    def __init__(self, folder, prompt):
        self.torch = pytest.importorskip("torch")
        self.model, self.prompt = load_torch(folder), prompt
        self.seq2seq = self.model.config.is_encoder_decoder

    def logits(self, text, answer):
        """Of what follows the text, and each token of the answer."""
        torch = self.torch
        embed = self.model.get_input_embeddings()
        row = torch.tensor([text])
        more = torch.tensor([answer], dtype=torch.long)
        options = {}
        before = 0
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = embed(row)
            if isinstance(self.prompt, DecomposedPrompt):
                served = [torch.tensor(np.asarray(each)) for each in self.prompt.served]
                count = min(POSITIONS, len(text))
                x[0, :count] += served[1][:count]
                x = torch.cat([served[0][None], x], dim=1)
                before = LENGTH
            else:
                options["past_key_values"] = self.cache()
            if self.seq2seq:
                start = torch.tensor([[self.model.config.decoder_start_token_id]])
                ids = torch.cat([start, more], dim=1)
                output = self.model(inputs_embeds=x, decoder_input_ids=ids, **options)
                return output.logits[0].numpy()
            x = torch.cat([x, embed(more)], dim=1)
            output = self.model(inputs_embeds=x, **options)
            return output.logits[0, before + len(text) - 1 :].numpy()

    def cache(self):
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache

        prefix = self.prompt.decoder if self.seq2seq else self.prompt
        past = DynamicCache()
        for i, layer in enumerate(prefix.layers):
            past.update(*(self.torch.tensor(np.array(each)) for each in layer), i)
        return EncoderDecoderCache(past, DynamicCache()) if self.seq2seq else past


CASES = [(kind, variant) for kind in ("dept", "prefix") for variant in ("t5", "mistral", "gpt2")]


def known_to_torch(kind, model):
    prompt = made(kind, model)
    if isinstance(prompt, EncoderDecoderPrefix):
        return EncoderDecoderPrefix(prompt.decoder, None)  # torch has none for the encoder
    return prompt


@pytest.mark.parametrize(("kind", "variant"), CASES)
def test_logits_are_torchs(folders, models, kind, variant):
    model = models[variant]
    prompt = known_to_torch(kind, model)
    reference = Torch(folders[variant], prompt)
    batch = batch_of()
    logits = compiled(trained_logits, model, prompt, batch)
    plain = compiled(target_logits, model, batch, None)
    for i, (text, target) in enumerate(zip(INPUTS, TARGETS, strict=True)):
        expected = reference.logits(text, target[:-1])
        np.testing.assert_allclose(logits[i, : len(target)], expected, atol=5e-5, rtol=0)
        assert np.abs(plain[i, : len(target)] - expected).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "variant"), CASES)
def test_answers_are_torchs(folders, models, kind, variant):
    """Scores of choices, greedy text and beams."""
    model = models[variant]
    prompt = known_to_torch(kind, model)
    reference = Torch(folders[variant], prompt)
    rows = {name: batch_of()[name] for name in ("inputs", "input_mask")}
    scores = compiled(choice_log_likelihoods, model, rows, *pad_rows(CHOICES), prompt.served)
    for i, text in enumerate(INPUTS):
        for j, choice in enumerate(CHOICES):
            each = reference.logits(text, choice[:-1]).astype(np.float64)
            each -= np.log(np.exp(each).sum(-1, keepdims=True))
            expected = sum(each[step, token] for step, token in enumerate(choice))
            assert scores[i, j] == pytest.approx(expected, abs=2e-4)

    def likeliest(module, rows, prompt):
        return greedy(module, rows, prompt, NEW)

    def one_beam(module, rows, prompt):
        return beam_search(module, rows, prompt, NEW, beams=2).scores

    answers = compiled(likeliest, model, rows, prompt.served)
    best = compiled(one_beam, model, rows, prompt.served)[:, 0]
    for i, text in enumerate(INPUTS):
        answer, total = [], 0.0
        while len(answer) < NEW and not {*answer} & {*model.config.eos_ids}:
            last = reference.logits(text, answer)[-1].astype(np.float64)
            answer.append(int(last.argmax()))
            total += last.max() - np.log(np.exp(last).sum())
        assert answers[i, : len(answer)].tolist() == answer
        assert best[i] >= total / len(answer) - 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dept", "prefix"])
def test_padding_changes_nothing(models, kind):
    """A causal model's inputs may be padded anywhere."""
    model = models["mistral"]
    prompt = made(kind, model).served

    def answer(module, rows, prompt):
        return greedy(module, rows, prompt, NEW)

    def told(side, width):
        ids, mask = pad(INPUTS, side, width)
        rows = {"inputs": ids, "input_mask": mask}
        scores = compiled(choice_log_likelihoods, model, rows, *pad_rows(CHOICES), prompt)
        return scores, compiled(answer, model, rows, prompt)

    (right, texts), (left, same) = told("right", 7), told("left", 9)
    np.testing.assert_allclose(left, right, atol=5e-5)
    np.testing.assert_array_equal(texts, same)


@pytest.mark.parametrize("kind", ["dept", "prefix"])
@pytest.mark.parametrize("variant", ["t5", "gpt2"])
def test_every_parameter_has_a_gradient(models, kind, variant):
    model = models[variant]
    graphdef, state = nnx.split(fresh(kind, model))
    batch = batch_of()

    def slopes(module, state):
        def loss(state):
            logits = PromptedModel(module, nnx.merge(graphdef, state)).target_logits(batch)
            return jnp.sum(jax.nn.log_softmax(logits)[..., 5])

        return jnp.stack([jnp.abs(slope).max() for slope in jax.tree.leaves(jax.grad(loss)(state))])

    # A has none while B is 0.
    assert (
        np.sum(compiled(slopes, model, state) > 0)
        == {
            ("dept", "t5"): 2,
            ("dept", "gpt2"): 2,
            ("prefix", "t5"): 4,
            ("prefix", "gpt2"): 2,
        }[kind, variant]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "variant"), CASES)
def test_bfloat16_and_dropout(folders, models, kind, variant):
    prompt, batch = made(kind, models[variant]), batch_of()
    expected = compiled(trained_logits, models[variant], prompt, batch)
    halved = load_model(str(folders[variant]), dtype="bfloat16")
    logits = compiled(trained_logits, halved, prompt, batch)
    mask = batch["target_mask"]
    error = np.abs(logits - expected)[mask].mean()
    assert 0 < error < 0.05 * np.abs(expected[mask]).mean()

    def answer(module, rows, prompt):
        return greedy(module, rows, prompt, NEW)

    rows = {name: batch[name] for name in ("inputs", "input_mask")}
    assert compiled(answer, halved, rows, prompt.served).shape == (len(INPUTS), NEW)

    def dropped(module, prompt, batch, keys):
        return PromptedModel(module, prompt).target_logits(batch, Dropout(0.2, keys))

    keys = jax.random.split(jax.random.key(1), len(INPUTS))
    noisy = compiled(dropped, models[variant], prompt, batch, keys)
    assert np.abs(noisy - expected)[mask].max() > 0.1
    # A row's noise is its own, whatever else is in the batch.
    order = np.asarray([2, 0, 1])
    turned = {name: values[order] for name, values in batch.items()}
    again = compiled(dropped, models[variant], prompt, turned, keys[order])
    np.testing.assert_allclose(again[mask[order]], noisy[order][mask[order]], atol=2e-5)


# --- In folders ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dept", "prefix"])
@pytest.mark.parametrize("variant", ["t5", "gpt2"])
def test_saved_and_loaded(models, kind, variant, tmp_path):
    model = models[variant]
    prompt = UnfoldedPrompt(made(kind, model), {"model": "tiny", "labels": ["a"]})
    prompt.save(tmp_path / "best")
    again = load_prompt(tmp_path / "best")
    assert isinstance(again, UnfoldedPrompt)
    assert again.card == {**prompt.card, "kind": kind, "length": LENGTH, "format": 1}
    assert {name: x.tobytes() for name, x in again.tensors.items()} == {
        name: x.tobytes() for name, x in prompt.tensors.items()
    }
    assert again.length == LENGTH
    again.check_fits(model.config, "tiny")
    other = models["llama" if variant == "t5" else "t5"]
    if kind == "prefix":
        with pytest.raises(UserError, match="made for tiny, whose shape is not that of other"):
            again.check_fits(other.config, "other")
    with pytest.raises(UserError, match=f"is a '{kind}' prompt, which is more than vectors"):
        SoftPrompt.load(tmp_path / "best")
    with pytest.raises(UserError, match="more than vectors; use it with Predictor"):
        model.logits([[5]], decoder_input_ids=[[0]] if variant == "t5" else None, prompt=again)


def test_dept_of_another_width(models):
    narrow = DecomposedPrompt(jnp.zeros((2, 16)), jnp.zeros((5, 2)), jnp.zeros((2, 16)))
    with pytest.raises(UserError, match="whose shape is not that of tiny"):
        UnfoldedPrompt(narrow).check_fits(models["gpt2"].config, "tiny")


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": np.zeros((2, 4, 3, 8), np.int32)},
        {"keys": np.zeros((2, 4, 3), np.float32)},
        {"keys": np.full((2, 4, 3, 8), np.nan, np.float32)},
        {"values": np.zeros((2, 4, 2, 8), np.float32)},
        {"values": np.zeros((2, 4, 0, 8), np.float32)},
    ],
)
def test_damaged_folders(tmp_path, changes):
    shape = (2, 4, 3, 8)
    UnfoldedPrompt(LayerPrefix(jnp.ones(shape), jnp.ones(shape))).save(tmp_path)
    tensors = safetensors.numpy.load_file(tmp_path / "prompt.safetensors")
    safetensors.numpy.save_file(tensors | changes, tmp_path / "prompt.safetensors")
    with pytest.raises(UserError, match=r"save (it|the prompt) anew"):
        load_prompt(tmp_path)
