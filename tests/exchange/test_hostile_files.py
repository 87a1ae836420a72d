"""Files of others that are truncated, too large, of wrong types or pickled: one sentence each."""

import json
import pickle
import random

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from tiny_models import make_tiny

import softprompt_jax as sp
from softprompt_jax.exchange import export_npy, import_npy, read_prompt
from softprompt_jax.models import resolve_model

VECTORS = np.random.default_rng(0).normal(0, 3, (4, 32)).astype(np.float32)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    t5 = make_tiny(folder / "t5", "t5", num_layers=1, num_decoder_layers=1)
    gpt2 = make_tiny(folder / "gpt2", "gpt2", n_layer=1)
    wide = make_tiny(folder / "wide", "gpt2", n_layer=1, n_embd=64)
    return {path.name: resolve_model(str(path)) for path in (t5, gpt2, wide)}


@pytest.fixture
def adapter(models, tmp_path):
    prompt = sp.SoftPrompt(jnp.asarray(VECTORS), {"model": "me/base", "labels": ["good", "bad"]})
    sp.export_peft(prompt, tmp_path / "adapter", model=models["t5"])
    return tmp_path / "adapter"


def message_of(source, **options) -> str:
    with pytest.raises(sp.UserError) as caught:
        sp.import_peft(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def outcome(read, source):
    """A sentence, or a prompt that is sound."""
    try:
        prompt = read(source)
    except sp.UserError as error:
        message = str(error)
    else:
        assert prompt.vectors.ndim == 2
        assert np.isfinite(prompt.vectors).all()
        return prompt
    assert "\n" not in message
    return message


def change(adapter, **keys):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def remove(adapter, key):
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    del config[key]
    path.write_text(json.dumps(config))


def store(adapter, **tensors):
    safetensors.numpy.save_file(tensors, adapter / "adapter_model.safetensors")


# ------------------------------------------------------------------------------- what is refused


def test_no_task_type(adapter):
    remove(adapter, "task_type")
    assert "silently never uses its prompt" in message_of(adapter)
    change(adapter, task_type=None)
    assert "silently never uses its prompt" in message_of(adapter)
    change(adapter, task_type="SEQ_CLS")
    assert "task_type 'SEQ_CLS'" in message_of(adapter)


@pytest.mark.parametrize(
    ("peft_type", "reason"),
    [
        ("CARTRIDGE", "part of its keys and values"),
        ("MULTITASK_PROMPT_TUNING", "each of several tasks"),
        ("CPT", "offsets to the tokens"),
        ("LORA", "no soft prompt that this version knows"),
        ("\n" * 10_000, "no soft prompt that this version knows"),
        (None, "has no peft_type"),
        (["PROMPT_TUNING"], "has no peft_type"),
    ],
)
def test_other_types(adapter, peft_type, reason):
    change(adapter, peft_type=peft_type)
    told = message_of(adapter)
    assert reason in told
    assert "PROMPT_TUNING, P_TUNING or PREFIX_TUNING" in told


def test_another_model(adapter, models):
    assert "SEQ_2_SEQ_LM model" in message_of(adapter, model=models["gpt2"])
    change(adapter, task_type="CAUSAL_LM")
    told = message_of(adapter, model=models["wide"])
    assert "The prompt is 32 wide" in told
    assert "is 64 wide" in told
    assert "CAUSAL_LM model" in message_of(adapter, model=models["t5"])
    assert sp.import_peft(adapter, model=models["gpt2"]).length == 4


def test_keys_that_matter(adapter):
    change(adapter, modules_to_save=["score"])
    assert "modules_to_save" in message_of(adapter)
    change(adapter, modules_to_save=None, new_option=None, newer_option=False)
    assert sp.import_peft(adapter).length == 4
    change(adapter, new_option={"scale": 2}, **{"a" * 10_000: 1, "two\nlines": 1})
    told = message_of(adapter)
    assert "'new_option'" in told
    change(adapter, num_ranks=3)
    assert "num_ranks" in message_of(adapter)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"num_virtual_tokens": 5}, "says [5, 32]"),
        ({"num_virtual_tokens": 2}, "says [2, 32]"),
        ({"num_virtual_tokens": None}, "does not say num_virtual_tokens"),
        ({"num_virtual_tokens": 0}, "no whole number from 1 on"),
        ({"num_virtual_tokens": True}, "no whole number from 1 on"),
        ({"num_virtual_tokens": 4.0}, "no whole number from 1 on"),
        ({"num_virtual_tokens": 10**4000}, "no whole number from 1 on"),
        ({"num_virtual_tokens": 2**31 - 1}, "says [2147483647, 32]"),
        ({"token_dim": 16}, "says [4, 16]"),
        ({"token_dim": "32"}, "no whole number from 1 on"),
        ({"num_transformer_submodules": None}, "says [8, 32] (2 for each virtual token)"),
        ({"num_transformer_submodules": 2}, "says [8, 32]"),
        ({"num_transformer_submodules": 3}, "has 2 at most"),
        ({"num_transformer_submodules": 2, "task_type": "CAUSAL_LM"}, "has 1 at most"),
        ({"base_model_name_or_path": 3}, "no line of text"),
        ({"base_model_name_or_path": "two\nlines"}, "no line of text"),
        ({"revision": ["main"]}, "no line of text"),
    ],
)
def test_numbers_and_names(adapter, keys, reason):
    change(adapter, **keys)
    assert reason in message_of(adapter)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"prompt": VECTORS}, "holds prompt;"),
        ({}, "holds nothing"),
        ({"prompt_embeddings": VECTORS, "base_model.score.weight": VECTORS}, "score.weight"),
        ({"prompt_embeddings": VECTORS[0]}, "shape [32]"),
        ({"prompt_embeddings": np.array(1, np.float32)}, "shape []"),
        ({"prompt_embeddings": VECTORS[:0]}, "shape [0, 32]"),
        ({"prompt_embeddings": VECTORS.T.copy()}, "shape [32, 4]"),
        ({"prompt_embeddings": VECTORS.astype(np.int32)}, "type int32"),
        ({"prompt_embeddings": VECTORS > 0}, "type bool"),
        ({"prompt_embeddings": np.where(VECTORS > 3, np.nan, VECTORS)}, "not finite"),
        ({"prompt_embeddings": VECTORS.astype(np.float64) * 1e300}, "not finite"),
    ],
)
def test_tensors(adapter, tensors, reason):
    store(adapter, **tensors)
    assert reason in message_of(adapter)


def test_missing_files(adapter, tmp_path):
    assert "There is no PEFT adapter" in message_of(tmp_path / "nowhere")
    assert "There is no PEFT adapter" in message_of("no such thing")
    assert message_of(tmp_path).endswith("is missing; give its folder adapter.")
    assert "There is no PEFT adapter" in message_of(adapter / "prompt.json")
    (adapter / "adapter_model.safetensors").unlink()
    assert "fetch the adapter again" in message_of(adapter)


# ----------------------------------------------------------------------- truncated, large, strange


@pytest.mark.parametrize(
    "file", ["adapter_config.json", "adapter_model.safetensors", "prompt.json"]
)
def test_truncated_anywhere(adapter, file):
    whole = (adapter / file).read_bytes()
    for length in range(0, len(whole.rstrip()), 5):
        (adapter / file).write_bytes(whole[:length])
        assert file in message_of(adapter)


@pytest.mark.parametrize(
    "file", ["adapter_config.json", "adapter_model.safetensors", "prompt.json"]
)
def test_changed_bytes(adapter, file):
    whole = (adapter / file).read_bytes()
    generator = random.Random(file)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(generator.choice([1, 1, 3, 30])):
            data[generator.randrange(min(len(data), 600))] = generator.randrange(256)
        (adapter / file).write_bytes(data)
        outcome(sp.import_peft, adapter)


VALUES = [None, True, -1, 0, 1.5, 1e999, 10**400, "", "x", "\n\x00", [], {}, [[]], {"a": [1]}]


def test_every_key_of_every_type(adapter):
    path = adapter / "adapter_config.json"
    sound = json.loads(path.read_text())
    refused = 0
    for key in sound:
        for value in VALUES:
            path.write_text(json.dumps(sound | {key: value}))
            found = outcome(sp.import_peft, adapter)
            refused += isinstance(found, str)
            assert isinstance(found, str) or found.vectors.tobytes() == VECTORS.tobytes()
    assert refused > 60


def test_every_fact_of_a_card_of_every_type(adapter, models, tmp_path):
    """The card is free; whatever it says, the prompt can be used and written again."""
    path = adapter / "prompt.json"
    sound = json.loads(path.read_text())
    for key in [*sound, "metrics", "task", "init", "step", "model_revision"]:
        for value in [*VALUES, {"a|b`\n": 1.5, "c": 10**400}, ["`|\n", 3]]:
            path.write_text(json.dumps(sound | {key: value}))
            prompt = outcome(sp.import_peft, adapter)
            assert isinstance(prompt, sp.SoftPrompt)
            sp.export_peft(prompt, tmp_path / "again", model=models["t5"])
            again = sp.import_peft(tmp_path / "again")
            assert again.vectors.tobytes() == VECTORS.tobytes()


@pytest.mark.parametrize("file", ["adapter_config.json", "prompt.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[1]",
        b"3",
        b"9" * 5000,
        b"{'a': 1}",
    ],
)
def test_json_that_is_none(adapter, file, content):
    (adapter / file).write_bytes(content)
    assert file in message_of(adapter)


@pytest.mark.parametrize(
    "file", ["adapter_config.json", "prompt.json", "adapter_model.safetensors"]
)
def test_files_too_large_to_be_read(adapter, file):
    with (adapter / file).open("r+b") as opened:
        opened.truncate(2**40)  # a hole: it takes no space
    assert "bytes, more than" in message_of(adapter)


def test_a_header_that_claims_more_than_there_is(adapter):
    path = adapter / "adapter_model.safetensors"
    for shape in ([4, 32], [2**40, 32]):
        end = 4 * shape[0] * shape[1]
        header = {"prompt_embeddings": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 64)
        assert "cannot be read" in message_of(adapter)
    path.write_bytes(b"\xff" * 64)
    assert "cannot be read" in message_of(adapter)


# ----------------------------------------------------------------------------------------- pickles


def test_pickles_in_place_of_safetensors(adapter, tmp_path):
    bomb = pickle.dumps({"prompt_embeddings": Payload(tmp_path / "executed")})
    for file in ("adapter_model.safetensors", "adapter_config.json", "prompt.json"):
        whole = (adapter / file).read_bytes()
        (adapter / file).write_bytes(bomb)
        assert file in message_of(adapter)
        (adapter / file).write_bytes(whole)
    assert not (tmp_path / "executed").exists()


def test_torch_files(adapter, tmp_path):
    torch = pytest.importorskip("torch")
    (adapter / "adapter_model.safetensors").unlink()
    path = adapter / "adapter_model.bin"
    values = torch.tensor(VECTORS)

    path.write_bytes(pickle.dumps({"prompt_embeddings": Payload(tmp_path / "executed")}))
    assert "cannot be read" in message_of(adapter)
    for zipped in (True, False):
        for content in (
            {"prompt_embeddings": Payload(tmp_path / "executed")},
            {"prompt_embeddings": values, "more": Payload(tmp_path / "executed")},
        ):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            assert "cannot be read" in message_of(adapter)
    assert not (tmp_path / "executed").exists()

    for content, reason in (
        ([values], "no state_dict"),
        ({"prompt_embeddings": 3}, "no state_dict"),
        ({"prompt_embeddings": values.int()}, "type int32"),
        ({"prompt_embeddings": values.to(torch.complex64)}, "type complex64"),
        ({"prompt_embeddings": values.to_sparse()}, "cannot be read"),
        ({3: values}, "holds 3;"),
        ({"prompt_embeddings": values, "b" * 999: values}, "holds bbb"),
    ):
        torch.save(content, path)
        assert reason in message_of(adapter)

    change(adapter, num_virtual_tokens=2**30)  # one number that claims to be a terabyte
    torch.save({"prompt_embeddings": torch.zeros(1).expand(2**30, 32)}, path)
    assert "too short for its tensor" in message_of(adapter)


def test_truncated_torch_files(adapter):
    torch = pytest.importorskip("torch")
    (adapter / "adapter_model.safetensors").unlink()
    path = adapter / "adapter_model.bin"
    torch.save({"prompt_embeddings": torch.tensor(VECTORS)}, path)
    whole = path.read_bytes()
    assert sp.import_peft(adapter).length == 4
    for length in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        assert "cannot be read" in message_of(adapter)


# -------------------------------------------------------------------------------------- .npy files


@pytest.fixture
def npy(tmp_path):
    export_npy(sp.SoftPrompt(jnp.asarray(VECTORS)), tmp_path / "p.npy")
    return tmp_path / "p.npy"


def told_of(path) -> str:
    found = outcome(import_npy, path)
    assert isinstance(found, str)
    assert str(path) in found
    return found


def header(text: str) -> bytes:
    padded = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


def test_truncated_npy(npy):
    whole = npy.read_bytes()
    for length in range(0, len(whole), 7):
        npy.write_bytes(whole[:length])
        assert "cannot be read" in told_of(npy)


def test_changed_npy(npy):
    whole = npy.read_bytes()
    generator = random.Random(0)
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(generator.choice([1, 1, 3, 30])):
            data[generator.randrange(200)] = generator.randrange(256)
        npy.write_bytes(data)
        outcome(import_npy, npy)


def test_pickled_npy(npy, tmp_path):
    np.save(npy, np.array([Payload(tmp_path / "executed")], object), allow_pickle=True)
    assert "cannot be read" in told_of(npy)
    npy.write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    assert "cannot be read" in told_of(npy)
    call = f"open({str(tmp_path / 'executed')!r}, 'w')"
    npy.write_bytes(
        header(f"{{'descr': {call}, 'fortran_order': False, 'shape': (4, 32)}}") + b"\0" * 512
    )
    assert "cannot be read" in told_of(npy)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 32)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 32)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 10**99)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 4}",
        "{'descr': '<f4', 'fortran_order': 3, 'shape': (4, 32)}",
        "{'descr': ['<f4'], 'fortran_order': False, 'shape': (4, 32)}",
        "{'descr': '<f4', 'fortran_order': False}",
        "[]",
        "{" * 110,
        "(" * 110,
        "\\N",
    ],
)
def test_headers_that_lie(npy, text):
    npy.write_bytes(header(text) + VECTORS.tobytes())
    assert "cannot be read" in told_of(npy)


def test_a_large_header_and_a_large_file(npy):
    npy.write_bytes(b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"{" * 200_000)
    assert "cannot be read" in told_of(npy)
    with npy.open("r+b") as file:
        file.truncate(2**40)
    assert "bytes, more than" in told_of(npy)


@pytest.mark.parametrize(
    "array",
    [
        VECTORS[0],
        VECTORS[:0],
        VECTORS[None],
        VECTORS.astype(np.int64),
        VECTORS.astype("S3"),
        VECTORS.astype([("a", np.float32)]),
        np.where(VECTORS > 3, np.inf, VECTORS),
        VECTORS.astype(np.float64) * 1e300,
        VECTORS.astype(np.complex64),
    ],
)
def test_arrays_that_are_no_prompt(npy, array):
    np.save(npy, array)
    assert "prompt in" in told_of(npy)


def test_any_form_of_nothing(tmp_path):
    for name in ("nowhere.npy", "nowhere", "no where"):
        assert isinstance(outcome(read_prompt, tmp_path / name), str)
    (tmp_path / "folder.npy").mkdir()
    assert "There is no file" in told_of(tmp_path / "folder.npy")
