"""Strict settings for every test: dtype and rank promotion, eight CPU devices."""

import atexit
import collections
import os
import shutil
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["SOFTPROMPT_JAX_CACHE"] = "off"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax
import pytest

from softprompt_jax.__main__ import COMMANDS

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests of one file compile the same functions again and again: a cache of this process alone saves
# a quarter of the time. (One for all workers would be read while it is written.)
compiled = tempfile.mkdtemp(prefix="compiled-")
atexit.register(shutil.rmtree, compiled, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", compiled)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


# Few tests, but minutes each: begun last, they would keep one worker busy long after the others.
LONGEST = (
    *("test_processes_runs.py", "test_gguf.py", "test_large_file.py", "test_learning.py"),
    *("test_predict_resume.py", "test_resume.py", "test_bench.py", "test_layout_runs.py"),
)


def pytest_configure(config):
    config.option.loadscopereorder = False  # pytest-xdist's own order, by the number of tests


def pytest_collection_modifyitems(items):
    """Files of `LONGEST` first, then those of many tests."""
    tests = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name not in LONGEST, -tests[item.path]))


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_functions():
    """Each compiled function maps memory, and Linux allows a process 65,530 maps by default."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def commands_are_run_anew(monkeypatch):
    """runpy warns of a module that is imported already, as those of commands are by some tests."""
    for name in COMMANDS:
        monkeypatch.delitem(sys.modules, f"softprompt_jax.{name}", raising=False)


@pytest.fixture
def standard_promotion():
    """For what optax computes by implicit promotion (adam's bias correction)."""
    with jax.numpy_dtype_promotion("standard"):
        yield
