"""Devices of a TPU slice that is not there: libtpu's compiler compiles for them all the same."""

import importlib.util
import math
import os
import re
from typing import Any

import jax

from softprompt_jax.errors import UserError

# What libtpu otherwise asks the machine that it runs on.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}
# Chips of the largest host of a generation, where a slice may have a single one.
_CHIPS_OF_A_HOST = {"v5e": 8, "v6e": 8}
_DIMENSIONS = {"v2": 2, "v3": 2, "v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}


def described_devices(topology: str) -> tuple[Any, ...]:
    """The devices of a TPU slice such as "v5e:2x4", to compile for.

    To be called before JAX has any device: it is set to run on the CPU alone.

    Raises:
        UserError: there is no such slice, or no libtpu.
    """
    generation, sides = _parse(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--topology needs the TPU's compiler; run "
            f"`pip install 'jax[tpu]=={jax.__version__}'`, best in an environment of its own."
        )
    os.environ.update(_ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    small = math.prod(sides) <= _CHIPS_OF_A_HOST.get(generation, 4)
    host = [*sides, 1][:3] if small else [2, 2, 1]
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, chips_per_host_bounds=host
        )
    except jax.errors.JaxRuntimeError as error:
        reason = re.sub(r"\s+", " ", str(error)).removeprefix("INVALID_ARGUMENT: ").rstrip(".")
        raise UserError(
            f"libtpu knows no slice {topology} ({reason[:200]}); give another, such as v5e:2x4."
        ) from None
    return tuple(description.devices)


def _parse(topology: str) -> tuple[str, list[int]]:
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", topology)
    generation = match[1] if match else ""
    sides = [int(side) for side in match[2].split("x")] if match else []
    if len(sides) != _DIMENSIONS.get(generation) or 0 in sides:
        raise UserError(
            f"--topology {topology!r} is no TPU slice; give a generation ("
            f"{', '.join(_DIMENSIONS)}) and its sides, as in v5e:1x1, v5e:2x4 or v4:2x2x1."
        )
    return generation, sides
