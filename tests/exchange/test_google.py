"""The original's .npy prompts, both ways."""

import ast

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import make_tiny

import softprompt_jax as sp
from softprompt_jax.exchange import export_npy, import_npy
from softprompt_jax.models import resolve_model

VECTORS = np.random.default_rng(0).normal(0, 50, (7, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return resolve_model(str(make_tiny(tmp_path_factory.mktemp("model"), "gpt2", n_layer=1)))


def test_the_bytes_of_the_file(tmp_path):
    """Written by hand from the format's description: numpy's own writer is not asked."""
    path = tmp_path / "deep" / "prompt.npy"
    export_npy(sp.SoftPrompt(jnp.asarray(np.asfortranarray(VECTORS))), path)
    data = path.read_bytes()
    assert data[:8] == b"\x93NUMPY\x01\x00"
    end = 10 + int.from_bytes(data[8:10], "little")
    assert ast.literal_eval(data[10:end].decode()) == {
        "descr": "<f4",
        "fortran_order": False,
        "shape": (7, 32),
    }
    assert data[end:] == VECTORS.tobytes()
    assert [p.name for p in path.parent.iterdir()] == ["prompt.npy"]


def test_round_trip(tmp_path, model):
    path = tmp_path / "prompt.npy"
    export_npy(sp.SoftPrompt(jnp.asarray(VECTORS), {"labels": ["a"]}), path)
    prompt = import_npy(path)
    assert np.asarray(prompt.vectors).tobytes() == VECTORS.tobytes()
    assert prompt.card == {"imported_from": "prompt.npy"}
    assert import_npy(path, model=model).card["model"] == model.name
    before = path.read_bytes()
    export_npy(prompt, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_floats(tmp_path, dtype, order):
    """The original's own test prompt is float64."""
    array = np.asarray(VECTORS.astype(dtype), order=order)
    np.save(tmp_path / "p.npy", array)
    prompt = import_npy(tmp_path / "p.npy")
    assert prompt.vectors.dtype == jnp.float32
    np.testing.assert_array_equal(prompt.vectors, array.astype(np.float32))


def test_a_prompt_is_not_the_file(tmp_path):
    np.save(tmp_path / "p.npy", VECTORS)
    prompt = import_npy(tmp_path / "p.npy")
    with (tmp_path / "p.npy").open("r+b") as file:
        file.seek(128)
        file.write(b"\0" * VECTORS.nbytes)
    assert np.asarray(prompt.vectors).tobytes() == VECTORS.tobytes()


def test_another_width(tmp_path, model):
    np.save(tmp_path / "p.npy", VECTORS[:, :16])
    with pytest.raises(sp.UserError, match="The prompt is 16 wide"):
        import_npy(tmp_path / "p.npy", model=model)


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(sp.UserError, match="not finite"):
        export_npy(sp.SoftPrompt(jnp.full((2, 3), jnp.nan)), tmp_path / "p.npy")
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_stays_when_writing_fails(tmp_path, monkeypatch):
    export_npy(sp.SoftPrompt(jnp.asarray(VECTORS)), tmp_path / "p.npy")

    def full(_):
        raise OSError("No space left on device")

    monkeypatch.setattr("softprompt_jax.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        export_npy(sp.SoftPrompt(jnp.zeros((2, 3))), tmp_path / "p.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["p.npy"]
    assert np.load(tmp_path / "p.npy").tobytes() == VECTORS.tobytes()
