"""`python -m softprompt_jax.plan`: what a run takes, before an accelerator is rented for it.

    python -m softprompt_jax.plan --config configs/plan_t5.py --topology v5e:1x1
    python -m softprompt_jax.plan --config configs/quickstart.py --json

The very step of the recipe is compiled, from shapes alone: no weights or data are read, so that of
`--train.loss labels`, which needs the labels, is counted as that of target tokens. With
--topology for a TPU slice that need not be there (TPU's compiler must: `pip install 'jax[tpu]'`),
else for the devices of this machine. Every option of `softprompt_jax.train` changes the recipe.
"""

import json
import sys
from collections.abc import Sequence

import jax

from softprompt_jax.command_line import Parser, load_command_config, run_command
from softprompt_jax.config import RunConfig
from softprompt_jax.data.buckets import Shape
from softprompt_jax.errors import UserError
from softprompt_jax.models.known_shapes import model_config
from softprompt_jax.planning.advice import largest_batch, try_changes
from softprompt_jax.planning.compiling import Scenario, measure_memory, measure_work
from softprompt_jax.planning.report import Plan, memory_line, to_object, to_text
from softprompt_jax.planning.topology import described_devices
from softprompt_jax.progress import tell


def main(arguments: Sequence[str]) -> int:
    """Plans, and prints what was found."""
    parser = Parser("softprompt_jax.plan", __doc__)
    parser.add_argument(
        "--topology",
        help="TPU slice, as in v5e:1x1 or v5e:2x4; default: the devices of this machine",
    )
    for option, what in (("input", "input tokens"), ("target", "target tokens")):
        parser.add_argument(
            f"--{option}-length",
            type=int,
            help=f"{what} of a row; default: --task.max_{option}_length",
        )
    parser.add_argument(
        "--no-search",
        action="store_true",
        help="leave out the largest batch, whose search compiles several times",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options, rest = parser.parse_known_args(arguments)
    for name in ("input_length", "target_length"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
    config = load_command_config(rest)
    shape = Shape(
        options.input_length or config.task.max_input_length,
        options.target_length or config.task.max_target_length,
    )
    found = plan(config, shape, options.topology, search=not options.no_search)
    print(json.dumps(to_object(found)) if options.json else to_text(found))
    return 0


def plan(config: RunConfig, shape: Shape, topology: str | None, *, search: bool = True) -> Plan:
    """Compiles a run's step, and what else tells whether it fits.

    Args:
        config: the run.
        shape: tokens that inputs and targets are padded to.
        topology: TPU slice; None: the devices of this machine.
        search: whether to search the largest batch that fits.

    Raises:
        UserError: there is no such slice or model, the devices cannot share the batch, or libtpu
            is missing.
    """
    devices = tuple(jax.devices()) if topology is None else described_devices(topology)
    # A compile time out of the cache would be none.
    jax.config.update("jax_enable_compilation_cache", False)
    scenario = Scenario(config, model_config(config.model.name), shape, devices)
    tell(f"compiling the step, for {scenario.layout}")
    footprint, parameters = measure_memory(scenario)
    tell(f"it {'fits' if footprint.fits else 'does not fit'}: {memory_line(footprint)}")
    changes = [] if footprint.fits else try_changes(scenario, footprint, _say_compiling)
    tell("compiling a few layers, to count FLOPs")
    work = measure_work(scenario)
    batch = largest_batch(scenario, footprint, _say_compiling) if search else None
    return Plan(scenario, topology, parameters, footprint, work, batch, changes)


def _say_compiling(what: str) -> None:
    tell(f"compiling with {what}")


if __name__ == "__main__":
    sys.exit(run_command(main))
