"""The compilation cache: where it is, who turns it off, and that a second start loads from it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from softprompt_jax import command_line
from softprompt_jax.compile_cache import SWITCH, user_cache_folder

# Says the folder, and how many functions were compiled, loaded, or looked for in vain.
PROGRAM = """
import sys
import jax, jax.numpy as jnp
from softprompt_jax.command_line import run_command

assert jax.config.jax_compilation_cache_dir is None or {given}
seen = dict.fromkeys(("cache_hits", "cache_misses"), 0)

def listen(event, **_):
    name = event.rsplit("/", 1)[-1]
    if name in seen:
        seen[name] += 1

def main(arguments):
    jax.monitoring.register_event_listener(listen)
    jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4))).block_until_ready()
    print(jax.config.jax_compilation_cache_dir)
    print(seen["cache_hits"], seen["cache_misses"])
    print(jax.config.jax_compilation_cache_max_size)
    return 0

sys.exit(run_command(main))
"""


def run(tmp_path, **environment):
    """Lines of standard output, and standard error."""
    blank = (SWITCH, "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")
    inherited = {name: value for name, value in os.environ.items() if name not in blank}
    program = PROGRAM.format(given="JAX_COMPILATION_CACHE_DIR" in environment)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=inherited | {"HOME": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines(), done.stderr


linux = pytest.mark.skipif(sys.platform != "linux", reason="the folder of this platform")


@linux
@pytest.mark.slow
def test_the_second_start_loads_what_the_first_compiled(tmp_path):
    folder = tmp_path / ".cache" / "softprompt_jax" / "compiled"
    (told, counts, limit), error = run(tmp_path)
    assert told == str(folder)
    assert counts.split()[0] == "0"
    assert 1e9 < int(limit) < 1e10
    assert any(folder.iterdir())
    assert error == ""
    first = {path.name for path in folder.glob("*-cache")}
    (_, counts, _), error = run(tmp_path)
    assert counts == f"{len(first)} 0"
    assert error == ""
    assert {path.name for path in folder.glob("*-cache")} == first


@linux
@pytest.mark.slow
def test_another_folder(tmp_path):
    (told, _, _), _ = run(tmp_path, XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert told == str(tmp_path / "xdg" / "softprompt_jax" / "compiled")
    own = str(tmp_path / "own")
    (told, _, limit), _ = run(tmp_path, JAX_COMPILATION_CACHE_DIR=own)
    assert told == own
    assert limit == "-1"  # JAX's own: no limit
    assert any(Path(own).iterdir())
    assert not (tmp_path / ".cache").exists()


@pytest.mark.slow
def test_off(tmp_path):
    (told, counts, _), error = run(tmp_path, **{SWITCH: "off"})
    assert (told, counts, error) == ("None", "0 0", "")
    assert not (tmp_path / ".cache").exists()


@linux
@pytest.mark.slow
def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / ".cache").write_text("a file")
    (told, _, _), error = run(tmp_path)
    assert told == "None"
    assert error.count("\n") == 1
    assert "softprompt_jax/compiled cannot be written (" in error
    assert f"{SWITCH}=off" in error


def test_a_switch_that_is_neither(monkeypatch, capsys):
    monkeypatch.setenv(SWITCH, "maybe")
    assert command_line.run_command(lambda _: 0) == 2
    assert "set it to 'on' or 'off'" in capsys.readouterr().err


def test_tests_leave_it_off():
    assert os.environ[SWITCH] == "off"


@pytest.mark.parametrize(
    ("platform", "environment", "folder"),
    [
        ("linux", {}, "HOME/.cache"),
        ("linux", {"XDG_CACHE_HOME": "/tmp/cache"}, "/tmp/cache"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "HOME/.cache"),
        ("darwin", {"XDG_CACHE_HOME": "/tmp/cache"}, "HOME/Library/Caches"),
        ("win32", {"LOCALAPPDATA": "/users/me/local"}, "/users/me/local"),
        ("win32", {}, "HOME/AppData/Local"),
    ],
)
def test_the_folder_of_a_platform(monkeypatch, platform, environment, folder):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert user_cache_folder(platform, environment) == Path(folder.replace("HOME", "/home/me"))
