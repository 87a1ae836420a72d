"""Every command line of README.md is one that its command takes; none is run."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

import softprompt_jax
from softprompt_jax import figures
from softprompt_jax.__main__ import COMMANDS
from softprompt_jax.benchmarks import prediction, training
from softprompt_jax.errors import UserError

PACKAGE = Path(softprompt_jax.__file__).parent
ROOT = Path(__file__).parent.parent

# What each command calls first with its options read.
FIRST_CALLS = {
    "train": ("train",),
    "inspect_task": ("resolve_model",),
    "evaluate": ("prepare",),
    "predict": ("open_prompts",),
    "export": ("read_any_prompt",),
    "analyze": (),  # see `command`
    "plan": ("plan",),
    "pretrain": ("pretrain",),
    "reproduce": ("Context", "write_page"),
    "bench": (),
}


class WasReadError(Exception):
    """All options of a command were read."""


def stop(*_, **__):
    raise WasReadError


def command_lines():
    """The arguments of each command in a block of bash, its name first."""
    text = (ROOT / "README.md").read_text()
    for block in re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for i, word in enumerate(words):
                if word.startswith("softprompt_jax.") and words[i - 1] == "-m":
                    end = words.index("&&", i) if "&&" in words[i:] else len(words)
                    yield [word.removeprefix("softprompt_jax."), *words[i + 1 : end]]


LINES = list(command_lines())


@pytest.fixture
def command(monkeypatch):
    """Builds a command's `main` that ends with `WasReadError` before any work."""
    monkeypatch.chdir(ROOT)  # recipes are named from there

    def build(name):
        # Under another name: `import softprompt_jax.train` would put the module over the function.
        spec = importlib.util.spec_from_file_location(f"command_{name}", PACKAGE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for call in FIRST_CALLS[name]:
            monkeypatch.setattr(module, call, stop)
        # What is asked of the machine and not of the options.
        if name == "evaluate":
            cards = {"a": {"task": "movie_reviews"}, "b": {}}
            prompts = {each: SimpleNamespace(card=card) for each, card in cards.items()}
            opened = SimpleNamespace(prompts=prompts)
            monkeypatch.setattr(module, "open_prompts", lambda *_: opened)
        elif name == "export":
            monkeypatch.setattr(module, "check_token", lambda _: None)
            monkeypatch.setattr(module, "resolve_model", lambda _: None)
        elif name == "analyze":
            monkeypatch.setattr(figures, "check_installed", lambda: None)
            monkeypatch.setattr(module, "_check_free", lambda *_: None)
            kinds = {kind: (*rest, stop) for kind, (*rest, _) in module._COMMANDS.items()}
            monkeypatch.setattr(module, "_COMMANDS", kinds)
        elif name == "bench":
            for kind in (training, prediction):
                monkeypatch.setattr(kind, "compare", stop)
            for kind in (training, module):
                monkeypatch.setattr(kind, "check_installed", lambda: None)
        return module.main

    return build


def test_all_commands_are_there():
    assert {name for name, *_ in LINES} == set(COMMANDS) == set(FIRST_CALLS)
    assert ["bench", "predict", "--against", "peft", "--rounds", "1"] in LINES  # in one line
    assert any("--output" in line and "rows.jsonl" in line for line in LINES)  # in several


@pytest.mark.parametrize("line", LINES, ids=shlex.join)
def test_a_line_is_one_that_its_command_takes(command, line):
    name, *arguments = line
    with pytest.raises(WasReadError):
        command(name)(arguments)


@pytest.mark.parametrize("line", LINES, ids=shlex.join)
def test_an_option_that_is_none_would_be_found(command, line):
    name, *arguments = line
    with pytest.raises(UserError, match="--nonsense"):
        command(name)([*arguments, "--nonsense", "1"])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train", ["--prompt.init", "labels"]),
        ("plan", ["--train.remat", "some"]),
        ("pretrain", ["--corpus.objective", "none"]),
        ("predict", ["--prompts", "a=b", "--dtype", "float16"]),
        ("reproduce", ["fig9"]),
        ("analyze", ["neighbors"]),
        ("bench", ["train", "--lengths", "boolq"]),
    ],
)
def test_a_choice_that_is_none_would_be_found(command, name, arguments):
    with pytest.raises(UserError, match="choice"):
        command(name)(arguments)
