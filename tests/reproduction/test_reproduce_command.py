"""The command: its files, the page, and that a mistake is one sentence."""

import dataclasses
import importlib.util
import json
import re
import runpy
import sys

import pytest
from reproduction.tiny_preset import tiny_preset

from softprompt_jax.reproduction import experiment, fig3a
from softprompt_jax.reproduction.catalogue import EXPERIMENTS
from softprompt_jax.reproduction.presets import PRESETS
from softprompt_jax.training import processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("command")


@pytest.fixture
def command(monkeypatch, capfd, folder):
    monkeypatch.setenv("CI", "1")
    monkeypatch.chdir(folder)
    preset = tiny_preset(folder, seeds=(0,))
    monkeypatch.setitem(PRESETS, "tiny", preset)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["softprompt_jax.reproduce", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("softprompt_jax.reproduce", run_name="__main__")
        captured = capfd.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_figure_its_files_and_the_page(command, folder, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(fig3a, "LENGTHS", (1, 3))
    status, out, err = command("fig3a", "--preset", "tiny", "--workdir", "out")
    assert status == 0, err
    assert "| prompt length (tokens) | narrow | wide |" in out
    assert "python -m softprompt_jax.reproduce fig3a --preset tiny --workdir out" in out
    assert "[4/4]" in err
    made = folder / "out" / "tiny"
    told = json.loads((made / "fig3a.json").read_text())
    assert told["experiment"] == "fig3a"
    assert told["reference"].endswith("figure 3(a)")
    assert len(told["rows"]) == 4
    assert len(told["runs"]) == 4
    assert told["rows"][0]["paper"] is None
    assert (made / "fig3a.md").read_text() + "\n" == out
    assert is_png(made / "fig3a.png")

    # Again: nothing is run, and the same comes out.
    before = {path: path.stat().st_mtime_ns for path in folder.glob("out/runs/*/*")}
    status, again, err = command("fig3a", "--preset", "tiny", "--workdir", "out")
    assert (status, again, err) == (0, out, "")
    assert {path: path.stat().st_mtime_ns for path in folder.glob("out/runs/*/*")} == before

    assert command("tab4", "--preset", "tiny", "--workdir", "out")[0] == 0
    status, out, _ = command("report", "--preset", "tiny", "--workdir", "out")
    assert status == 0
    assert out == "page: out/tiny/report.html\n"
    page = (made / "report.html").read_text()
    assert len(re.findall("<section", page)) == 2
    assert len(re.findall('src="data:image/png;base64,', page)) == 2
    assert "<td>76,961,152</td>" in page
    # Nothing of it is elsewhere.
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_all_goes_on_where_something_is_missing(command, monkeypatch):
    pytest.importorskip("matplotlib")
    chosen = {name: EXPERIMENTS[name] for name in ("fig3c", "fig3d", "fig4", "tab1")}
    monkeypatch.setattr("softprompt_jax.reproduction.catalogue.EXPERIMENTS", chosen)
    monkeypatch.setattr("softprompt_jax.reproduction.page.EXPERIMENTS", chosen)
    size, other = PRESETS["tiny"].sizes
    size = dataclasses.replace(size, corrupted="{family}/gone/best")
    preset = dataclasses.replace(PRESETS["tiny"], sizes=(size, other))
    monkeypatch.setitem(PRESETS, "tiny", preset)
    status, out, err = command("all", "--preset", "tiny", "--workdir", "everything")
    assert status == 1
    assert "fig3c is left out: fig3c needs runs/pretraining/gone/best, which is not there" in err
    assert "fig3d is left out: fig3d needs a size along its LM adaptation" in err
    assert "tab1 is for --preset paper, whose data it needs." in err
    assert "left out: " not in err.partition("fig3d is left out: ")[2]
    assert out.startswith("## Figure 4")
    assert "page: everything/tiny/report.html" in out


def test_a_lost_worker_is_one_sentence(command, monkeypatch):
    pytest.importorskip("matplotlib")

    def lost(*_):
        raise processes.LostProcessError("A process of --workers was killed.")

    monkeypatch.setattr(experiment, "run_cells", lost)
    status, out, err = command("fig3a", "--preset", "tiny", "--workdir", "lost")
    assert (status, out, err) == (1, "", "error: A process of --workers was killed.\n")


def test_the_help_tells_steps_and_what_a_family_gives(command):
    status, out, _ = command("--help")
    assert status == 0
    text = " ".join(out.split())
    assert "tasks that come with the package; 300 steps" in text
    assert "t5-mini, which is always the package's" in text


MISTAKES = {
    "an unknown figure": (["fig9"], "invalid choice: 'fig9'"),
    "no workers": (["fig4", "--workers", "0"], "--workers is 0; it must be at least 1"),
    "no family": (["fig3a", "--family", "none"], "There is no folder none"),
    "no results": (["report", "--workdir", "nothing"], "There are no results in nothing/small"),
    "an unknown preset": (["fig4", "--preset", "large"], "invalid choice: 'large'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(command, name):
    arguments, message = MISTAKES[name]
    status, out, err = command(*arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""


def test_without_matplotlib_nothing_is_run(command, monkeypatch, folder):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name)
    )
    status, _, err = command("fig3a", "--preset", "tiny", "--workdir", "unseen")
    assert status == 2
    assert "run pip install 'softprompt-jax[plots]'" in err
    assert not (folder / "unseen").exists()
