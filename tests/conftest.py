"""Strict settings for every test: dtype and rank promotion, eight CPU devices."""

import atexit
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
