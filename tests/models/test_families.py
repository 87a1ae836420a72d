"""What the families promise beyond equal logits: masks, dropout, dtypes, configurations."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from model_variants import CAUSAL_VARIANTS, GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, T5, T5_VARIANTS
from torch_reference import our_logits, our_module, torch_config, torch_logits, torch_model
from transformers.models.t5.modeling_t5 import T5Attention

from softprompt_jax.errors import UserError
from softprompt_jax.models.attention import attend, causal_bias
from softprompt_jax.models.families import build_module, config_from_hf
from softprompt_jax.models.gpt2 import GPT2Config
from softprompt_jax.models.layers import Dropout
from softprompt_jax.models.llama import LlamaConfig
from softprompt_jax.models.parameter_tables import TABLES, find_rule
from softprompt_jax.models.relative_positions import relative_buckets
from softprompt_jax.models.rotary import Rotary
from softprompt_jax.models.t5_config import T5Config

CAUSAL = {"gpt2": GPT2, "smollm": CAUSAL_VARIANTS["smollm"], "mistral": MISTRAL, "qwen3": QWEN3}
ALL = CAUSAL | {"t5 1.0": T5, "t5 1.1": T5_VARIANTS["v1.1"]}
FEW = ["gpt2", "t5 1.1"]


def fresh(raw, dtype=jnp.float32):
    return build_module(config_from_hf(raw), dtype=dtype, rngs=nnx.Rngs(0))


def hidden(module, x, mask=None, **options):
    """Hidden states at every position, for either kind of model."""
    if module.config.is_encoder_decoder:
        encoded = module.encode(x, mask, **options)
        return module.decode(x[:, :5], encoded, mask, **options)
    return module(x, mask, **options)


def random_x(*shape, seed=3, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


# --- Masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAUSAL)
def test_gaps_in_the_mask_change_nothing(name):
    """A prompt, then padding, then text: the same as prompt and text next to each other."""
    raw = CAUSAL[name]
    module = our_module(torch_model(raw), raw)
    x = random_x(2, 20, 48)
    gap = jnp.full((2, 6, 48), 7.0)
    with_gap = jnp.concatenate([gap[:, :2], x[:, :4], gap[:, :3], x[:, 4:], gap[:, :1]], axis=1)
    real = np.r_[2:6, 9:25]
    mask = np.zeros((2, 26), bool)
    mask[:, real] = True
    separated = jax.jit(lambda m, x: m(x, mask))(module, with_gap)[:, real]
    together = jax.jit(lambda m, x: m(x))(module, x)
    np.testing.assert_allclose(separated, together, atol=2e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_only_the_wanted_positions(name):
    module = fresh(CAUSAL[name])
    x, at = random_x(2, 9, 48), jnp.array([[8, 3], [0, 7]], jnp.int32)
    everything, some = jax.jit(lambda module, x: (module(x), module(x, at_BxT=at)))(module, x)
    np.testing.assert_allclose(some[0], everything[0, np.array([8, 3])], atol=1e-6)
    np.testing.assert_allclose(some[1], everything[1, np.array([0, 7])], atol=1e-6)


@pytest.mark.parametrize("name", FEW)
def test_a_row_without_tokens_is_finite(name):
    """Rows that only fill up a batch have no token; neither they nor their gradient is NaN."""
    module = fresh(ALL[name])
    mask = jnp.array([[True] * 6, [False] * 6])

    def total(x):
        logits = module.unembed(hidden(module, x, mask))
        return jnp.sum(logits * logits)

    value, gradient = jax.jit(jax.value_and_grad(total))(random_x(2, 6, 48))
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


# --- Attention -------------------------------------------------------------------------------


def test_grouped_queries_equal_repeated_keys():
    q, k, v = random_x(2, 6, 5, 8), random_x(2, 2, 5, 8, seed=4), random_x(2, 2, 5, 8, seed=5)
    grouped = jax.jit(lambda *qkv: attend(*qkv, (causal_bias(5),), scale=0.3))(q, k, v)
    k, v = jnp.repeat(k, 3, axis=1), jnp.repeat(v, 3, axis=1)
    scores = jnp.einsum("bhlk,bhsk->bhls", q, k) * 0.3
    scores = jnp.where(np.tri(5, dtype=bool)[None, None], scores, -jnp.inf)
    expected = jnp.einsum("bhls,bhsk->blhk", jax.nn.softmax(scores), v).reshape(2, 5, 48)
    np.testing.assert_allclose(grouped, expected, atol=1e-6)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("n_buckets", "max_distance"), [(32, 128), (8, 20), (32, 256), (16, 64)])
def test_relative_buckets_equal_transformers(bidirectional, n_buckets, max_distance):
    import torch

    offsets = np.arange(-700, 700)
    theirs = T5Attention._relative_position_bucket(
        torch.from_numpy(offsets), bidirectional, n_buckets, max_distance
    )
    ours = relative_buckets(
        offsets, bidirectional=bidirectional, n_buckets=n_buckets, max_distance=max_distance
    )
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize("length", [1, 2, 37])
def test_position_bias_is_the_table_by_offset(decoder, length):
    module = fresh(T5)
    stack = module.decoder if decoder else module.encoder
    index = np.arange(length)
    buckets = relative_buckets(
        index[None, :] - index[:, None], bidirectional=not decoder, n_buckets=8, max_distance=20
    )
    expected = np.asarray(stack.relative_bias[...])[buckets].transpose(2, 0, 1)[None]
    np.testing.assert_array_equal(jax.jit(lambda s: s.position_bias(length))(stack), expected)


# --- Dropout ---------------------------------------------------------------------------------


def test_dropout_is_unbiased_and_its_sites_differ():
    dropout = Dropout(0.3, jax.random.split(jax.random.key(0), 4))
    x = jnp.full((4, 100, 100), 2.0)
    y = dropout(x, 0)
    assert np.mean(y) == pytest.approx(2, abs=0.03)
    assert np.mean(y == 0) == pytest.approx(0.3, abs=0.01)
    assert np.unique(y).tolist() == pytest.approx([0, 2 / 0.7])
    assert np.mean((y == 0) == (dropout(x, 1) == 0)) == pytest.approx(0.58, abs=0.01)
    assert np.mean((y[0] == 0) == (y[1] == 0)) == pytest.approx(0.58, abs=0.02)
    assert dropout(x.astype(jnp.bfloat16), 0).dtype == jnp.bfloat16
    assert Dropout(0.0, dropout.keys_B)(x, 0) is x


@pytest.mark.parametrize("name", FEW)
def test_dropout_of_a_row_does_not_depend_on_its_batch(name):
    module = fresh(ALL[name] | {"num_layers": 1, "num_hidden_layers": 1, "n_layer": 1})
    x, keys = random_x(4, 8, 48), jax.random.split(jax.random.key(1), 4)
    order = np.array([2, 0, 3, 1])
    run = jax.jit(lambda x, keys: hidden(module, x, dropout=Dropout(0.2, keys)))
    whole = run(x, keys)
    np.testing.assert_allclose(run(x[order], keys[order]), whole[order], atol=1e-5)
    assert np.abs(whole - run(x, keys[::-1])).max() > 0.01


class _Recorder(Dropout):
    sites: list[tuple[int, tuple[int, ...]]] = []  # noqa: RUF012 (one list for a test)

    def __call__(self, x, site):
        self.sites.append((site, x.shape))
        return x


@pytest.mark.parametrize(
    ("raw", "count"),
    # T5: embedding, final norm; a block's attention weights, their outputs, hidden, output.
    [(T5, (2 + 2 * 4) + (2 + 2 * 6)), (GPT2, 1 + 2 * 3), (LLAMA, 2)],
)
def test_dropout_sites_are_those_of_transformers(raw, count, monkeypatch):
    monkeypatch.setattr(_Recorder, "sites", [])
    dropout = _Recorder(0.1, jax.random.split(jax.random.key(2), 2))
    jax.eval_shape(lambda x: hidden(fresh(raw), x, dropout=dropout), random_x(2, 8, 48))
    sites = [site for site, _ in _Recorder.sites]
    assert len(sites) == len(set(sites)) == count
    heads = raw.get("num_attention_heads") or raw.get("num_heads") or raw.get("n_head")
    n_attentions = {"t5": 2 + 2 * 2, "gpt2": 2, "llama": 2}[raw["model_type"]]
    weights = [shape for _, shape in _Recorder.sites if len(shape) == 4]
    assert len(weights) == n_attentions
    assert all(shape[:2] == (2, heads) for shape in weights)


# --- Dtypes and first values -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "t5 1.0"])
def test_bfloat16_is_close(name):
    raw = ALL[name]
    model = torch_model(raw)
    ids = np.random.default_rng(1).integers(2, 97, (2, 12))
    decoder_ids = ids[:, :6] if raw["model_type"] == "t5" else None
    mask = np.arange(12)[None, :] < np.array([[12], [7]])
    exact, _ = torch_logits(model, ids, mask, decoder_ids)
    module = our_module(model, raw, dtype=jnp.bfloat16)
    assert module.embed(ids).dtype == jnp.bfloat16
    rough = our_logits(module, ids, mask, decoder_ids)
    assert rough.dtype == np.float32
    if decoder_ids is None:
        exact, rough = exact[mask], rough[mask]
    assert np.sqrt(np.mean((exact - rough) ** 2)) < 0.06 * exact.std()


@pytest.mark.parametrize("name", ALL)
def test_first_values_are_fit_for_training(name):
    """The first loss is near that of guessing."""
    module = fresh(ALL[name])
    ids = jnp.asarray(np.random.default_rng(1).integers(2, 97, (4, 12)), jnp.int32)
    logits = jax.jit(lambda m, ids: m.unembed(hidden(m, m.embed(ids))))(module, ids)
    targets = ids[:, : logits.shape[1]][:, 1:]  # the next token
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits)[:, :-1], targets[..., None], axis=-1)
    assert -np.mean(picked) == pytest.approx(np.log(97), abs=1.0)


@pytest.mark.parametrize("name", ALL)
def test_one_dtype_throughout(name):
    abstract = nnx.eval_shape(lambda: fresh(ALL[name], jnp.bfloat16))
    leaves = jax.tree.leaves(nnx.state(abstract))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in leaves)
    x = random_x(2, 8, 48, dtype=jnp.bfloat16)
    assert jax.eval_shape(hidden, abstract, x).dtype == jnp.bfloat16


# --- Configurations --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CAUSAL_VARIANTS, *T5_VARIANTS])
def test_config_that_transformers_saved(name, tmp_path):
    """The file as transformers 5 writes it says the same, save for T5's head."""
    raw = (CAUSAL_VARIANTS | T5_VARIANTS)[name]
    torch_config(raw).save_pretrained(tmp_path)
    saved = config_from_hf(json.loads((tmp_path / "config.json").read_text()))
    expected = config_from_hf(raw)
    if saved.family == "t5":
        assert saved.tied
        assert saved.scale_decoder_output == expected.scale_decoder_output
        saved = T5Config(**{**vars(saved), "tied": expected.tied})
    assert saved == expected
    hash(saved)


def test_t5_fields():
    config = T5Config.from_hf(T5_VARIANTS["byt5"])
    assert (config.n_layers, config.n_decoder_layers, config.n_heads) == (3, 1, 4)
    assert (config.activation, config.gated) == ("gelu_new", True)
    assert (config.tied, config.scale_decoder_output) == (False, False)
    assert (config.pad_id, config.decoder_start_id, config.eos_ids) == (0, 0, (1,))
    assert config.is_encoder_decoder
    assert config.max_positions is None
    assert T5Config.from_hf(T5).scale_decoder_output


def test_llama_fields():
    config = LlamaConfig.from_hf(QWEN2 | {"eos_token_id": [5, 6], "pad_token_id": None})
    assert (config.eos_ids, config.pad_id) == ((5, 6), 5)
    assert (config.qkv_bias, config.o_bias, config.tied) == (True, False, True)
    assert LlamaConfig.from_hf(QWEN2).windows == (None, None)
    windows = {"use_sliding_window": True, "sliding_window": 7}
    assert LlamaConfig.from_hf(QWEN2 | windows | {"max_window_layers": 1}).windows == (None, 7)
    assert LlamaConfig.from_hf(MISTRAL).windows == (7, 7)
    assert LlamaConfig.from_hf(LLAMA | {"sliding_window": 7}).windows == (None, None)
    assert LlamaConfig.from_hf({k: v for k, v in LLAMA.items() if k != "rope_theta"}).rotary == (
        Rotary(10_000.0)
    )
    assert GPT2Config.from_hf(GPT2).max_positions == 64


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({}, "None"),
        ({"model_type": "umt5"}, "umt5"),
        ({"model_type": "mixtral"}, "mixtral"),
        (LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        (LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        (LLAMA | {"rope_scaling": {"rope_type": "linear"}}, "factor"),
        (LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        (LLAMA | {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "full_attention"),
        (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (LLAMA | {"hidden_act": "mish"}, "mish"),
        (LLAMA | {"num_key_value_heads": 4}, "num_key_value_heads"),
        (LLAMA | {"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        (QWEN3 | {"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({k: v for k, v in LLAMA.items() if k != "hidden_size"}, "hidden_size"),
        (T5 | {"feed_forward_proj": "gated-mish"}, "mish"),
        (T5 | {"feed_forward_proj": "moe-relu"}, "moe-relu"),
        ({k: v for k, v in T5.items() if k != "d_ff"}, "d_ff"),
        (T5 | {"d_model": "64"}, "'64' for 'd_model', which must be a whole number"),
        (T5 | {"num_layers": 4.0}, "4.0 for 'num_layers'"),
        (T5 | {"num_heads": 0}, "0 for 'num_heads'"),
        (T5 | {"feed_forward_proj": 3}, "3"),
        (T5 | {"layer_norm_epsilon": None}, "None for 'layer_norm_epsilon', which must be a num"),
        (LLAMA | {"rope_scaling": "linear"}, "'linear' for its rotary settings"),
        (LLAMA | {"num_attention_heads": 0}, "0 for 'num_attention_heads'"),
        (GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (GPT2 | {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn"),
        (GPT2 | {"scale_attn_weights": False}, "scale_attn_weights"),
        (GPT2 | {"activation_function": "tanh"}, "tanh"),
    ],
)
def test_what_is_not_supported_is_named(raw, named):
    with pytest.raises(UserError, match=named):
        config_from_hf(raw)


def test_too_long_for_gpt2():
    module = fresh(GPT2)
    assert jax.eval_shape(module, random_x(1, 64, 48)).shape == (1, 64, 48)
    with pytest.raises(UserError, match=r"65 positions.*limit of 64"):
        jax.eval_shape(module, random_x(1, 65, 48))


# --- Tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CAUSAL_VARIANTS, *T5_VARIANTS])
def test_tables_cover_every_parameter_once(name):
    raw = (CAUSAL_VARIANTS | T5_VARIANTS)[name]
    config = config_from_hf(raw)
    abstract = nnx.eval_shape(lambda: build_module(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    ours = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(abstract))}
    theirs = [n for n, _ in torch_model(raw).named_parameters()]
    found = [rule[0] for n in theirs if (rule := find_rule(config.family, n))]
    assert sorted(found) == sorted(ours)
    # Checkpoints of the bare model have the names without its prefix.
    for full in theirs:
        bare = full.removeprefix("model.").removeprefix("transformer.")
        assert find_rule(config.family, full) == find_rule(config.family, bare)


@pytest.mark.parametrize("family", TABLES)
def test_patterns_are_not_ambiguous(family):
    patterns = [rule.pattern for rule in TABLES[family]]
    assert len(patterns) == len(set(patterns))
