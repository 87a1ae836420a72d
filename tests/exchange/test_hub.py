"""Prompts to and from a stand-in of the hub, and what is told when that fails."""

import json
import os
import subprocess
import sys

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from exchange.stand_in import running_hub
from huggingface_hub import constants, hf_api
from tiny_models import make_tiny

from softprompt_jax import SoftPrompt, UserError, import_peft
from softprompt_jax.exchange import read_prompt
from softprompt_jax.models import resolve_model

VECTORS = np.random.default_rng(0).normal(0, 3, (5, 32)).astype(np.float32)
CARD = {
    "model": "me/base",
    "task": "super_glue/boolq",
    "labels": ["True", "False"],
    "metrics": {"validation/accuracy": 0.875},
}
PROMPT = SoftPrompt(jnp.asarray(VECTORS), CARD)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A machine that may use the network, with a cache and a login of its own: nobody's."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    huggingface_hub.close_session()
    yield tmp_path / "cache"
    huggingface_hub.close_session()


@pytest.fixture
def hub(cache, monkeypatch):
    with running_hub() as hub:
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)  # PEFT's way
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


@pytest.fixture
def login(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "writer")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_tiny(tmp_path_factory.mktemp("model"), "t5", num_layers=1, num_decoder_layers=1)
    return resolve_model(str(folder))


def message_of(function, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def bits(prompt) -> bytes:
    return np.asarray(prompt.vectors).tobytes()


def test_there_and_back(hub, login, model):
    address = PROMPT.push_to_hub("me/boolq", model=model, license="mit")
    assert address == f"{hub.endpoint}/me/boolq"
    files = hub.files("me/boolq")
    assert set(files) - {".gitattributes"} == {
        *("adapter_config.json", "adapter_model.safetensors", "prompt.json", "README.md")
    }
    assert len(hub.repositories["me/boolq"]) == 2  # made, and one commit for all files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    readme = files["README.md"].decode()
    for told in ("license: mit", "base_model: me/base", "super_glue/boolq", "0.8750"):
        assert told in readme
    assert 'sp.import_peft("me/boolq")' in readme
    assert 'AutoPeftModelForSeq2SeqLM.from_pretrained("me/boolq")' in readme
    for prompt in (
        SoftPrompt.from_hub("me/boolq"),
        import_peft("me/boolq", model=model),
        read_prompt("me/boolq"),
    ):
        assert bits(prompt) == VECTORS.tobytes()
        assert prompt.card == CARD | {"format": 1, "length": 5, "d_model": 32}


def test_from_the_cache_without_network(hub, login, model, monkeypatch):
    PROMPT.push_to_hub("me/boolq", model=model)
    SoftPrompt.from_hub("me/boolq")
    before = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert bits(SoftPrompt.from_hub("me/boolq")) == VECTORS.tobytes()
    assert len(hub.requests) == before
    assert "HF_HUB_OFFLINE" in message_of(SoftPrompt.from_hub, "me/other")
    assert "HF_HUB_OFFLINE is set" in message_of(PROMPT.push_to_hub, "me/boolq", model=model)


def test_a_new_commit_and_an_old_revision(hub, login, model):
    PROMPT.push_to_hub("me/boolq", model=model)
    first = hub.repositories["me/boolq"][-1][0]
    SoftPrompt(PROMPT.vectors * 2, CARD).push_to_hub("me/boolq", model=model)
    assert bits(SoftPrompt.from_hub("me/boolq")) == (VECTORS * 2).tobytes()
    assert bits(SoftPrompt.from_hub("me/boolq", revision=first)) == VECTORS.tobytes()
    assert "no such revision" in message_of(SoftPrompt.from_hub, "me/boolq", revision="v9")


def test_a_prompt_folder_and_an_empty_repository(hub, tmp_path):
    PROMPT.save(tmp_path / "best")
    files = {path.name: path.read_bytes() for path in (tmp_path / "best").iterdir()}
    hub.commit("me/plain", files)
    assert bits(SoftPrompt.from_hub("me/plain")) == VECTORS.tobytes()
    hub.commit("me/empty", {"README.md": b"hello"})
    assert "holds no prompt" in message_of(SoftPrompt.from_hub, "me/empty")


def test_weights_of_no_use_are_not_fetched(hub):
    hub.commit(
        "me/lora",
        {
            "adapter_config.json": b'{"peft_type": "LORA", "task_type": "CAUSAL_LM"}',
            "adapter_model.safetensors": bytes(1000),
        },
    )
    assert "'LORA' adapter" in message_of(import_peft, "me/lora")
    assert not any("adapter_model" in request for request in hub.requests)


def test_weights_are_missing_or_damaged(hub, login, model):
    PROMPT.push_to_hub("me/boolq", model=model)
    whole = hub.files("me/boolq")
    hub.commit("me/torn", whole | {"adapter_model.safetensors": b"torn"})
    assert "adapter_model.safetensors cannot be read" in message_of(import_peft, "me/torn")
    hub.repositories["me/half"] = [
        ("a" * 40, {"adapter_config.json": whole["adapter_config.json"]})
    ]
    assert "fetch the adapter again" in message_of(SoftPrompt.from_hub, "me/half")


@pytest.mark.parametrize(
    "name", ["boolq", "me/boolq/x", "me/bo olq", "/boolq", "me/", "me/a--b", "https://x/y", ""]
)
def test_a_name_that_is_none(hub, login, model, name):
    told = message_of(PROMPT.push_to_hub, name, model=model)
    assert told == message_of(SoftPrompt.from_hub, name)
    assert "is no repository of the hub" in told
    assert hub.requests == []


def test_a_repository_that_is_not_there(hub):
    told = message_of(SoftPrompt.from_hub, "me/nowhere")
    assert told == message_of(import_peft, "me/nowhere")
    assert "me/nowhere is neither a local folder nor found" in told


def test_nobody_is_logged_in(hub, model):
    assert "Nobody is logged in" in message_of(PROMPT.push_to_hub, "me/boolq", model=model)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "repo_id"), [("stale", "me/boolq"), ("reader", "me/boolq"), ("writer", "you/boolq")]
)
def test_a_token_that_may_not_write(hub, model, token, repo_id):
    told = message_of(PROMPT.push_to_hub, repo_id, model=model, token=token)
    assert f"{repo_id} does not let this token write" in told
    assert "hf auth login" in told
    assert hub.repositories == {}


def test_a_licence_that_the_hub_does_not_know(hub, login, model):
    told = message_of(PROMPT.push_to_hub, "me/boolq", model=model, license="mine")
    assert 'refused by the hub (Invalid metadata in README.md. - "license" must not be' in told
    assert set(hub.files("me/boolq")) == {".gitattributes"}


def test_a_private_repository(hub, login, model):
    PROMPT.push_to_hub("me/secret", model=model, private=True)
    assert hub.private == {"me/secret"}
    PROMPT.push_to_hub("me/secret", model=model, private=True)
    PROMPT.push_to_hub("me/open", model=model)
    before = hub.files("me/open")
    with pytest.raises(UserError, match="me/open is there already and public; make it private"):
        PROMPT.push_to_hub("me/open", model=model, private=True)
    assert hub.files("me/open") == before


def test_a_base_model_that_nobody_else_has(hub, login, model):
    prompt = SoftPrompt(PROMPT.vectors, {"model": model.name})
    told = message_of(prompt.push_to_hub, "me/boolq")
    assert "is no hub id" in told
    assert hub.requests == []
    prompt.push_to_hub("me/boolq", base_model="me/base")
    config = json.loads(hub.files("me/boolq")["adapter_config.json"])
    assert config["base_model_name_or_path"] == "me/base"
    assert SoftPrompt.from_hub("me/boolq").card["model"] == "me/base"
    assert all(model.name.encode() not in data for data in hub.files("me/boolq").values())


def test_a_hub_that_is_down(hub, login, model):
    hub.broken = True
    assert "could not be fetched" in message_of(SoftPrompt.from_hub, "me/boolq")
    assert "could not be written" in message_of(PROMPT.push_to_hub, "me/boolq", model=model)


def test_a_hub_that_does_not_answer(cache, login, model, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "check the network connection" in message_of(SoftPrompt.from_hub, "me/boolq")
    told = message_of(PROMPT.push_to_hub, "me/boolq", model=model)
    assert "check the network connection" in told


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is dep:FutureWarning")
def test_peft_loads_what_was_pushed(hub, login, model, tmp_path):
    peft = pytest.importorskip("peft")
    from lively_models import load_torch

    PROMPT.push_to_hub("me/boolq", model=model)
    loaded = peft.PeftModel.from_pretrained(load_torch(model.name), "me/boolq")
    weights = loaded.prompt_encoder["default"].embedding.weight.detach().numpy()
    assert weights.tobytes() == VECTORS.tobytes()
    loaded.save_pretrained(tmp_path / "saved", save_embedding_layers=False)
    saved = safetensors.numpy.load_file(tmp_path / "saved" / "adapter_model.safetensors")
    hub.commit("me/theirs", {p.name: p.read_bytes() for p in (tmp_path / "saved").iterdir()})
    assert saved["prompt_embeddings"].tobytes() == bits(SoftPrompt.from_hub("me/theirs"))


@pytest.mark.slow
def test_the_real_command_and_the_endpoint_of_the_environment(tmp_path, model):
    SoftPrompt(PROMPT.vectors, {"model": model.name}).save(tmp_path / "best")

    def export(token, *arguments):
        cache = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-m", "softprompt_jax.export", *map(str, arguments)]
        environment = os.environ | cache | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    with running_hub() as hub:
        push = (tmp_path / "best", "--push_to_hub", "me/boolq", "--base-model", "me/base")
        done = export("", *push)
        assert done.returncode == 2
        assert done.stderr.startswith("error: Nobody is logged in")
        done = export("writer", *push)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"repository: {hub.endpoint}/me/boolq\n"
        done = export("", "me/boolq", "--npy", tmp_path / "back.npy")
        assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "back.npy").tobytes() == VECTORS.tobytes()
