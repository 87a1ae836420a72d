"""Weights that are read into shards or stacks are those that are read plainly, in less memory."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from safetensors.numpy import load_file, save_file
from tiny_models import make_tiny

from softprompt_jax.errors import UserError
from softprompt_jax.models import checkpoints, resolve_model, save_model
from softprompt_jax.models.checkpoints import fingerprint
from softprompt_jax.models.stacking import stack_blocks
from softprompt_jax.training.sharding_rules import partition_spec

FAMILIES = ("t5", "llama", "gpt2")
SHAPES = {"fsdp 8": (1, 8, 1), "data 4, tensor 2": (4, 1, 2), "2 of each": (2, 2, 2)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {f: make_tiny(tmp_path_factory.mktemp(f), f) for f in FAMILIES}


@pytest.fixture(scope="module")
def plain(folders):
    return {family: resolve_model(str(folder)).load() for family, folder in folders.items()}


def rules(shape):
    axes = ("data", "fsdp", "tensor")
    mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 3)
    return lambda path, shape: NamedSharding(mesh, partition_spec(path, shape, mesh.shape))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("stacked", [False, True])
def test_the_same_values_in_their_places(folders, plain, family, shape, stacked, monkeypatch):
    monkeypatch.setattr(checkpoints, "_BLOCK_ELEMENTS", 7 * 32)  # blocks that do not fit shards
    sharding_of = rules(shape)
    model = resolve_model(str(folders[family])).load("float32", sharding_of, stacked)
    expected = plain[family].module
    expected = stack_blocks(expected) if stacked else expected
    assert nnx.split(model.module)[0] == nnx.split(expected)[0]
    wanted = dict(nnx.to_flat_state(nnx.state(expected)))
    cut = 0
    for path, leaf in nnx.to_flat_state(nnx.state(model.module)):
        values = leaf[...]
        assert values.sharding == sharding_of(".".join(map(str, path)), values.shape)
        cut += not values.sharding.is_fully_replicated
        np.testing.assert_array_equal(values, wanted[path][...], err_msg=str(path))
    assert cut > len(wanted) / 4  # GPT-2 has many biases and norms
    assert model.fingerprint == plain[family].fingerprint


def test_other_files_into_shards(folders, plain, tmp_path):
    torch = pytest.importorskip("torch")
    state = load_file(folders["t5"] / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folders["t5"] / "config.json").read_bytes())
    tensors = {name: torch.tensor(values) for name, values in state.items()}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    model = resolve_model(str(tmp_path)).load("bfloat16", rules((2, 2, 2)), stacked=True)
    assert model.fingerprint == plain["t5"].fingerprint
    assert model.module.embedding[...].dtype == "bfloat16"


def test_rows_of_no_device_here_are_not_read():
    """As in a job of several processes, whose devices each hold a part."""

    class Source:
        path = Path("of this test")

        def __init__(self):
            self.values = np.arange(48, dtype=np.float32).reshape(12, 4)
            self.asked = []

        def names(self):
            return {"matrix": (12, 4)}

        def read(self, name, rows=slice(None)):
            self.asked.append((rows.start, rows.stop))
            return self.values[rows]

        def close(self):
            pass

    source = Source()
    part = np.zeros((2, 3), np.float32)
    checkpoints._fill(source, "matrix", [(((5, 7), (1, 4)), part)])
    assert source.asked == [(5, 7)]
    np.testing.assert_array_equal(part, source.values[5:7, 1:4])


def test_a_negative_zero_is_told_in_shards_too(folders):
    model = resolve_model(str(folders["llama"])).load()
    embedding = model.module.embedding
    embedding[...] = embedding[...].at[0, 0].set(-0.0)
    before = fingerprint(model.config, model.module)
    sharding = rules((1, 8, 1))("embedding", embedding.shape)
    embedding[...] = jax.device_put(embedding[...], sharding)
    assert fingerprint(model.config, model.module) == before
    embedding[...] = embedding[...].at[0, 0].set(0.0)
    assert fingerprint(model.config, model.module) != before


def test_layers_that_cannot_be_stacked(tmp_path):
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    make_tiny(tmp_path, "llama", model_type="qwen2", **window)
    with pytest.raises(UserError, match="sliding windows"):
        resolve_model(str(tmp_path)).load(stacked=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_from_shards_and_stacks(folders, tmp_path, family):
    files = resolve_model(str(folders[family]))
    for name, options in {
        "plain": {},
        "shards": {"sharding_of": rules((2, 2, 2))},
        "stacks": {"stacked": True},
        "both": {"sharding_of": rules((1, 8, 1)), "stacked": True},
    }.items():
        save_model(tmp_path / name, files.load("float32", **options))
        stored = (tmp_path / name / "model.safetensors").read_bytes()
        assert stored == (tmp_path / "plain" / "model.safetensors").read_bytes(), name
    assert {
        name: values.shape
        for name, values in load_file(tmp_path / "both" / "model.safetensors").items()
    } == {
        name: values.shape
        for name, values in load_file(folders[family] / "model.safetensors").items()
    }


# --- Memory ----------------------------------------------------------------------------------

MEASURE = """
    import re, sys
    import jax
    jax.config.update("jax_num_cpu_devices", 8)
    from flax import nnx
    from jax.sharding import AxisType, NamedSharding
    from softprompt_jax.models import resolve_model
    from softprompt_jax.training.sharding_rules import partition_spec

    mesh = jax.make_mesh((1, 8, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)

    def place(path, shape):
        return NamedSharding(mesh, partition_spec(path, shape, mesh.shape))

    def peak():  # not ru_maxrss, which a process inherits from the one that started it
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

    big, tiny, stacked = sys.argv[1:]
    stacked = stacked == "True"
    resolve_model(tiny).load("float32", place, stacked)  # imports and the like
    before = peak()
    model = resolve_model(big).load("float32", place, stacked)
    leaves = [leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model.module))]
    print(peak() - before, sum(leaves), max(leaves))
"""


def write_zeros(folder, tiny, **shape):
    """A Llama without random numbers, which take long to draw."""
    raw = json.loads((tiny / "config.json").read_text()) | shape
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    width, hidden, layers = (
        raw[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    shapes = {"embed_tokens": (raw["vocab_size"], width), "norm": (width,)}
    keys_values = width // raw["num_attention_heads"] * raw["num_key_value_heads"]
    for i in range(layers):
        block = {f"self_attn.{name}_proj": (width, width) for name in "qo"}
        block |= {f"self_attn.{name}_proj": (keys_values, width) for name in "kv"}
        block |= {f"mlp.{name}_proj": (hidden, width) for name in ("gate", "up")}
        block |= {"mlp.down_proj": (width, hidden)}
        block |= dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (width,))
        shapes |= {f"layers.{i}.{name}": shape for name, shape in block.items()}
    state = {
        f"model.{name}.weight": np.full(shape, 0.5, np.float32) for name, shape in shapes.items()
    }
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("stacked", [False, True])
def test_peak_memory_on_devices_that_are_the_host(folders, tmp_path, stacked):
    big = write_zeros(
        tmp_path / "big",
        folders["llama"],
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=6,
        vocab_size=8192,
    )
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), str(big), str(folders["llama"]),
         str(stacked)],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    growth, total, largest = (int(number) for number in done.stdout.split())
    print(f"stacked {stacked}: {growth / 1e6:.0f} MB for {total / 1e6:.0f} MB of parameters")
    assert total > 3e8
    assert growth <= total + largest + 4e7
