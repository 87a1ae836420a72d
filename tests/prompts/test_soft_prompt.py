"""A prompt on disk: whole or absent, bit-identical, and a clear word where it is neither."""

import json
import shutil
from types import SimpleNamespace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from softprompt_jax.errors import UserError
from softprompt_jax.prompts import SoftPrompt

VECTORS = np.random.default_rng(0).normal(0, 50, (7, 12)).astype(np.float32)
CARD = {
    "model": "größer/modell",
    "labels": ["positive", "négatif"],
    "metrics": {"validation/accuracy": 0.1 + 0.2},
    "seed": 3,
}


@pytest.fixture
def saved(tmp_path):
    SoftPrompt(jnp.asarray(VECTORS), CARD).save(tmp_path / "prompt")
    return tmp_path / "prompt"


def test_round_trip(saved):
    prompt = SoftPrompt.load(saved)
    assert prompt.vectors.dtype == jnp.float32
    assert np.asarray(prompt.vectors).tobytes() == VECTORS.tobytes()
    assert prompt.card == CARD | {"format": 1, "length": 7, "d_model": 12}
    assert prompt.length == 7
    assert sorted(path.name for path in saved.iterdir()) == ["prompt.json", "prompt.safetensors"]
    assert [path.name for path in saved.parent.iterdir()] == ["prompt"]
    assert safetensors.numpy.load_file(saved / "prompt.safetensors")["vectors"].shape == (7, 12)
    prompt.save(str(saved))
    again = SoftPrompt.load(str(saved))
    assert np.asarray(again.vectors).tobytes() == VECTORS.tobytes()
    assert again.card == prompt.card


def test_a_folder_in_folders_that_are_not_there(tmp_path):
    SoftPrompt(jnp.asarray(VECTORS)).save(tmp_path / "a" / "b")
    assert SoftPrompt.load(tmp_path / "a" / "b").length == 7


@pytest.mark.parametrize(
    "vectors",
    [np.asfortranarray(VECTORS), VECTORS[::-1], VECTORS.astype(np.float64)],
    ids=["columns first", "reversed", "float64"],
)
def test_any_layout_in_memory(tmp_path, vectors):
    SoftPrompt(vectors).save(tmp_path / "prompt")
    np.testing.assert_array_equal(SoftPrompt.load(tmp_path / "prompt").vectors, vectors)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path, saved, dtype):
    vectors = VECTORS.astype(dtype)
    safetensors.numpy.save_file({"vectors": vectors}, saved / "prompt.safetensors")
    prompt = SoftPrompt.load(saved)
    assert prompt.vectors.dtype == jnp.float32
    np.testing.assert_array_equal(prompt.vectors, vectors.astype(np.float32))


def test_the_shape_on_the_card_is_that_of_the_vectors(tmp_path, saved):
    shorter = SoftPrompt(jnp.asarray(VECTORS[:3, :5]), SoftPrompt.load(saved).card)
    shorter.save(tmp_path / "shorter")
    card = json.loads((tmp_path / "shorter" / "prompt.json").read_text())
    assert (card["length"], card["d_model"]) == (3, 5)


def test_the_card_may_be_utf8(saved):
    text = json.dumps(CARD, ensure_ascii=False)
    (saved / "prompt.json").write_text(text, encoding="utf-8")
    assert SoftPrompt.load(saved).card == CARD


def test_names_that_are_no_text_are_none(saved):
    """Errors name a prompt's model and task, on terminals that obey what is written to them."""
    card = saved / "prompt.json"
    told = json.loads(card.read_text()) | {
        "model": "x\n\x1b[2Jerror: gone",
        "task": "a\tb",
        "note": "c\td",
    }
    card.write_text(json.dumps(told))
    loaded = SoftPrompt.load(saved).card
    assert "model" not in loaded
    assert "task" not in loaded
    assert loaded["note"] == "c\td"


@pytest.mark.parametrize("failure", ["card", "disk"])
def test_the_old_prompt_stays_whole_when_saving_fails(saved, failure, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    if failure == "disk":
        monkeypatch.setattr(safetensors.numpy, "save_file", full)
    prompt = SoftPrompt(jnp.zeros((2, 12)), {"unwritable": object()} if failure == "card" else {})
    with pytest.raises(TypeError if failure == "card" else OSError):
        prompt.save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["prompt"]


def test_a_prompt_that_was_being_replaced_when_the_process_died(saved):
    saved.rename(saved.with_name(".prompt.old"))
    assert SoftPrompt.load(saved).length == 7


@pytest.mark.parametrize("thing", ["folder", "file"])
def test_only_a_prompt_is_replaced(tmp_path, thing):
    target = tmp_path / "work"
    thesis = target if thing == "file" else target / "thesis.tex"
    thesis.parent.mkdir(exist_ok=True)
    thesis.write_text("three years")
    with pytest.raises(UserError, match="work holds something else than a prompt"):
        SoftPrompt(jnp.asarray(VECTORS)).save(target)
    assert thesis.read_text() == "three years"
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize("thing", ["notes.md", ".git"])
def test_a_prompt_with_other_things_beside_it_is_not_replaced(saved, thing):
    (saved / thing).mkdir()
    (saved / thing / "work").write_text("three years")
    with pytest.raises(UserError, match="holds something else than a prompt"):
        SoftPrompt(jnp.asarray(VECTORS)).save(saved)
    assert (saved / thing / "work").read_text() == "three years"


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is the current folder"):
        SoftPrompt(jnp.asarray(VECTORS)).save(".")


def test_a_folder_of_prompts_is_none(saved, tmp_path):
    """A run's folder, or where it kept a prompt for each task."""
    (tmp_path / "logs").mkdir()
    shutil.copytree(saved, tmp_path / "rte")
    shutil.copytree(saved, tmp_path / ".rte.old")  # what a save left unfinished
    with pytest.raises(UserError, match=r"missing; give one of the prompts in it: prompt, rte\."):
        SoftPrompt.load(tmp_path)


def test_an_empty_folder_is_filled(tmp_path):
    SoftPrompt(jnp.asarray(VECTORS)).save(tmp_path)
    assert SoftPrompt.load(tmp_path).length == 7


# --- damaged, truncated and wrong files ------------------------------------------------------


def message_of(folder) -> str:
    with pytest.raises(UserError) as caught:
        SoftPrompt.load(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def test_no_prompt(tmp_path, saved):
    assert "prompt.safetensors is missing" in message_of(tmp_path / "absent")
    assert "prompt.safetensors is missing" in message_of(tmp_path)
    (saved / "prompt.json").unlink()
    assert "prompt.json is missing" in message_of(saved)


def test_another_format_is_refused(saved):
    card = json.loads((saved / "prompt.json").read_text())
    assert card["format"] == 1
    for other in (2, 0, "one", None):
        (saved / "prompt.json").write_text(json.dumps({**card, "format": other}))
        assert f"has format {other}, but this softprompt_jax reads format 1" in message_of(saved)


@pytest.mark.parametrize("file", ["prompt.safetensors", "prompt.json"])
def test_truncated_anywhere(saved, file):
    whole = (saved / file).read_bytes()
    for length in range(0, len(whole) - 1, 7):
        (saved / file).write_bytes(whole[:length])
        assert "damaged" in message_of(saved)


@pytest.mark.parametrize(
    "card", [b"\xff\xfe", b"[" * 100_000, b"{'model': 1}"], ids=["bytes", "deep", "python"]
)
def test_a_card_that_is_no_json(saved, card):
    (saved / "prompt.json").write_bytes(card)
    assert "damaged" in message_of(saved)


def test_a_card_that_is_no_object(saved):
    (saved / "prompt.json").write_text("[1]")
    assert "with a card" in message_of(saved)


@pytest.mark.parametrize(
    "tensors",
    [
        {"prompt_embeddings": VECTORS},
        {"vectors": VECTORS[0]},
        {"vectors": VECTORS[:0]},
        {"vectors": VECTORS.astype(np.int32)},
        {"vectors": np.where(VECTORS > 90, np.nan, VECTORS)},
        {"vectors": np.where(VECTORS > 90, np.inf, VECTORS)},
    ],
    ids=["name", "rank", "empty", "integers", "nan", "inf"],
)
def test_wrong_tensors(saved, tensors):
    safetensors.numpy.save_file(tensors, saved / "prompt.safetensors")
    message_of(saved)


def test_safetensors_that_hold_something_else(saved):
    (saved / "prompt.safetensors").write_bytes(b"\x80\x04pickle" * 100)
    assert "damaged" in message_of(saved)


def test_check_fits():
    prompt = SoftPrompt(jnp.asarray(VECTORS), CARD)
    prompt.check_fits(SimpleNamespace(d_model=12), "mine")
    with pytest.raises(UserError) as caught:
        prompt.check_fits(SimpleNamespace(d_model=13), "mine")
    assert str(caught.value) == (
        "The prompt is 12 wide, made for größer/modell, but mine is 13 wide; use the model that it "
        "was trained for."
    )
    with pytest.raises(UserError, match="made for another model"):
        SoftPrompt(jnp.asarray(VECTORS)).check_fits(SimpleNamespace(d_model=13), "mine")
