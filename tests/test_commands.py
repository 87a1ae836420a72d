import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import softprompt_jax
from softprompt_jax.__main__ import COMMANDS, main, overview

PACKAGE = Path(softprompt_jax.__file__).parent


def test_the_overview_has_every_command_and_what_it_does():
    runnable = {
        path.stem
        for path in PACKAGE.glob("*.py")
        if 'if __name__ == "__main__":' in path.read_text() and path.stem != "__main__"
    }
    assert set(COMMANDS) == runnable
    lines = [line.split(maxsplit=1) for line in overview().splitlines() if line.startswith("  ")]
    assert [name for name, _ in lines] == list(COMMANDS)
    assert all(told.endswith(".") and len(told) > 20 for _, told in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option(name, monkeypatch, capsys):
    explained = []
    add_argument = argparse.ArgumentParser.add_argument

    def note(self, *flags, **settings):
        action = add_argument(self, *flags, **settings)
        # Of a group that is required, one option is given.
        explained.append((action, action.required or getattr(self, "required", False)))
        return action

    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", note)
    # Under another name: `import softprompt_jax.train` would put the module over the function.
    spec = importlib.util.spec_from_file_location(f"command_{name}", PACKAGE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(softprompt_jax.train)
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert f"softprompt_jax.{name}" in told
    assert [action.dest for action, _ in explained if not action.help] == []
    # A switch is off by default.
    optional = [
        action
        for action, needed in explained
        if action.option_strings and action.nargs != 0 and not needed
    ]
    assert [action.dest for action in optional if "default: " not in action.help] == []


def test_the_package_runs_a_command(monkeypatch, capsys):
    """What follows the name is the command's, and so is its status."""
    for arguments, status, told in (
        (["inspect_task", "--config"], 2, "error: --config needs a file"),
        (
            ["inspect_task", "--config", "a.py", "--config=b.py"],
            2,
            "error: --config was given 2 times (a.py, b.py); give it once.",
        ),
        (["inspect_task", "--help"], 0, "softprompt_jax.inspect_task"),
    ):
        monkeypatch.setattr(sys, "argv", [])
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == status
        assert told in "".join(capsys.readouterr())


def test_a_command_that_is_none(capsys):
    assert main(["trian", "--train.steps", "5"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: There is no command trian; choose one of train, ")
    assert err.count("\n") == 1


def test_the_package_runs():
    told = subprocess.run(
        [sys.executable, "-m", "softprompt_jax"], capture_output=True, text=True, check=True
    )
    assert told.stdout == overview() + "\n"
    assert told.stderr == ""
