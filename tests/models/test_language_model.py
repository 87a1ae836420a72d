"""`LanguageModel.logits` with a prompt: against torch, against peft, and under any padding."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from lively_models import (
    CAUSAL,
    VARIANTS,
    load_torch,
    make_lively,
    pad,
    random_prompt,
    random_rows,
)

from softprompt_jax.errors import UserError
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt

LENGTHS = (11, 4, 4)  # past the window of "mistral"; few, because each is compiled
ROWS = random_rows(LENGTHS)
DECODER_ROWS = random_rows((5, 5, 5), seed=1)
PROMPT = random_prompt(6)
WIDTH = 14


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {v: make_lively(tmp_path_factory.mktemp("model"), v) for v in VARIANTS}


@pytest.fixture(scope="module")
def models(folders):
    return {variant: load_model(str(folder)) for variant, folder in folders.items()}


def logits(model, ids, mask, prompt, rows=slice(None)):
    decoder_ids = np.asarray(DECODER_ROWS[rows]) if model.is_encoder_decoder else None
    return np.asarray(model.logits(ids, mask, decoder_ids, prompt))


def real(model, output, mask):
    """The rows of an output without padding."""
    if model.is_encoder_decoder:
        return list(output)
    return [row[m] for row, m in zip(output, mask, strict=True)]


@pytest.mark.parametrize(
    ("variant", "prompt"),
    [
        *((variant, PROMPT) for variant in ("t5", *CAUSAL)),
        *((variant, None) for variant in ("t5", "gpt2")),
    ],
    ids=lambda value: value if isinstance(value, str) else "plain" if value is None else "prompt",
)
def test_padding_and_company_change_nothing(models, variant, prompt):
    model = models[variant]
    alone = []
    for i, row in enumerate(ROWS):
        output = logits(model, [row], None, prompt, slice(i, i + 1))
        assert output.dtype == np.float32
        length = 5 if model.is_encoder_decoder else len(row)
        assert output.shape == (1, length, model.config.vocab_size)
        alone.append(output[0])
    for side in ("right", "left"):
        ids, mask = pad(ROWS, side, WIDTH)
        output = logits(model, ids, mask.astype(np.int32), prompt)
        assert output.shape[1] == (5 if model.is_encoder_decoder else WIDTH)
        assert np.isfinite(output).all()
        for one, row in zip(alone, real(model, output, mask), strict=True):
            np.testing.assert_allclose(row, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_torch_fed_with_prompt_and_embeddings(models, folders, variant):
    torch = pytest.importorskip("torch")
    model, reference = models[variant], load_torch(folders[variant])
    ids, mask = pad(ROWS, "left", WIDTH)
    ours = real(model, logits(model, ids, mask, PROMPT), mask)
    for i, row in enumerate(ROWS):
        with torch.no_grad():
            embedded = reference.get_input_embeddings()(torch.tensor([row]))
            embedded = torch.cat([torch.tensor(PROMPT)[None], embedded], dim=1)
            extra = {}
            if model.is_encoder_decoder:
                extra["decoder_input_ids"] = torch.tensor([DECODER_ROWS[i]])
            theirs = reference(inputs_embeds=embedded, **extra).logits[0].numpy()
        theirs = theirs if model.is_encoder_decoder else theirs[len(PROMPT) :]
        assert 1 < np.abs(theirs).max() < 50
        np.testing.assert_allclose(ours[i], theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft(models, folders, variant):
    """peft gives the same where it is right: it puts left padding between prompt and text."""
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the imports' own deprecations are not ours
        peft = pytest.importorskip("peft", reason="peft, which is compared with, is not installed")
    model = models[variant]
    config = peft.PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM" if model.is_encoder_decoder else "CAUSAL_LM",
        num_virtual_tokens=len(PROMPT),
        num_transformer_submodules=1,
    )
    reference = load_torch(folders[variant])
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 for what it is about to rename.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        tuned = peft.get_peft_model(reference, config).eval()
    with torch.no_grad():
        tuned.prompt_encoder["default"].embedding.weight.copy_(torch.tensor(PROMPT))
    ids, mask = pad(ROWS, "right", WIDTH)
    arguments = {"input_ids": torch.tensor(ids).long(), "attention_mask": torch.tensor(mask).long()}
    if model.is_encoder_decoder:
        # Labels, because peft's T5 path refuses decoder_input_ids; the model shifts them.
        arguments["labels"] = torch.tensor(DECODER_ROWS)
        start = np.full((len(ROWS), 1), model.config.decoder_start_id)
        decoder_ids = np.concatenate([start, np.asarray(DECODER_ROWS)[:, :-1]], axis=1)
        ours = list(np.asarray(model.logits(ids, mask, decoder_ids, PROMPT)))
    else:
        ours = real(model, logits(model, ids, mask, PROMPT), mask)
    with torch.no_grad():
        theirs = tuned(**arguments).logits.numpy()
    if not model.is_encoder_decoder:
        theirs = theirs[:, len(PROMPT) :]
    for our, their in zip(ours, real(model, theirs, mask), strict=True):
        np.testing.assert_allclose(our, their, atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", ["t5", "gpt2"])
def test_any_kind_of_prompt(models, variant):
    model = models[variant]
    ids, mask = pad(ROWS, "right", WIDTH)
    expected = logits(model, ids, mask, PROMPT)
    for prompt in (SoftPrompt(jnp.asarray(PROMPT)), jnp.asarray(PROMPT), PROMPT.tolist()):
        np.testing.assert_array_equal(logits(model, ids, mask.tolist(), prompt), expected)
    assert np.abs(expected - logits(model, ids, mask, None)).max() > 0.1
    assert np.abs(expected - logits(model, ids, mask, PROMPT[::-1])).max() > 0.1


def test_bfloat16_gives_float32_logits(folders):
    model = load_model(str(folders["llama"]), "bfloat16")
    output = model.logits(ROWS[:1], prompt=PROMPT)
    assert output.dtype == jnp.float32
    assert output.shape == (1, LENGTHS[0], model.config.vocab_size)


def test_a_prompt_of_another_shape_is_refused(models):
    for prompt in (random_prompt(6, width=31), PROMPT[0], PROMPT[None]):
        with pytest.raises(UserError, match=r"needs \[length, 32\]") as caught:
            models["gpt2"].logits(ROWS[:1], prompt=prompt)
        assert "\n" not in str(caught.value)


def test_decoder_input_ids_belong_to_encoder_decoders(models):
    with pytest.raises(UserError, match="needs decoder_input_ids"):
        models["t5"].logits(ROWS[:1])
    for variant in CAUSAL:
        with pytest.raises(UserError, match="leave decoder_input_ids out"):
            models[variant].logits(ROWS[:1], decoder_input_ids=ROWS[:1])


def test_more_positions_than_gpt2_has(models):
    ids = np.full((1, 510), 5)
    assert models["gpt2"].logits(ids, prompt=PROMPT[:2]).shape[1] == 510
    with pytest.raises(UserError, match="513 positions"):
        models["gpt2"].logits(ids, prompt=PROMPT[:3])


def test_what_a_model_tells_of_itself(models, folders):
    for variant, model in models.items():
        assert model.name == str(folders[variant])
        assert model.d_model == 32
        assert model.is_encoder_decoder == (variant not in CAUSAL)
        assert model.tokenizer is model.tokenizer
        assert len(model.fingerprint) == 16
    assert len({model.fingerprint for model in models.values()}) == len(models)
