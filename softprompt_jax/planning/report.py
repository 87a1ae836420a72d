"""What a plan found, as one object and as text."""

import dataclasses
from typing import Any

from softprompt_jax.planning.advice import BatchSize, Change
from softprompt_jax.planning.compiling import Footprint, Parameters, Scenario, Work
from softprompt_jax.training.chips import chip_of
from softprompt_jax.training.flops import run_step_flops
from softprompt_jax.training.setup import resolve_dtype, resolve_remat, resolve_scan


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was found.

    Attributes:
        scenario: what was planned.
        topology: as it was asked for; None: the devices of this machine.
        parameters: their numbers.
        footprint: memory of a device.
        work: of a step; None if it could not be counted.
        batch: the largest that fits; None if there is no limit or it was not searched.
        changes: what was tried where the step does not fit.
    """

    scenario: Scenario
    topology: str | None
    parameters: Parameters
    footprint: Footprint
    work: Work | None
    batch: BatchSize | None
    changes: list[Change]


def to_object(plan: Plan) -> dict[str, Any]:
    """The plan as one JSON object; bytes are of one device, FLOPs and bytes moved of all."""
    scenario, footprint, work = plan.scenario, plan.footprint, plan.work
    config, layout = scenario.config, scenario.layout
    options, platform = config.train, layout.platform
    chip = chip_of(layout.devices[0])
    least = run_step_flops(config, scenario.model, scenario.shape)
    values: dict[str, Any] = {
        "model": config.model.name,
        "method": options.method,
        "topology": plan.topology,
        "device": layout.devices[0].device_kind if chip is None else chip.name,
        "devices": len(layout.devices),
        "layout": "mesh" if layout.axis is None else "pmap",
        "batch_size": options.batch_size,
        "prompt_length": config.prompt.length,
        "input_length": scenario.shape.inputs,
        "target_length": scenario.shape.targets,
        "dtype": resolve_dtype(config, platform),
        "remat": resolve_remat(config, platform),
        "scan_layers": resolve_scan(config),
        "accumulation": options.accumulation,
        "parameters_frozen": plan.parameters.frozen,
        "parameters_trained": plan.parameters.trained,
        "fits": footprint.fits,
        "memory_bytes": None if chip is None else chip.memory_bytes,
        **_footprint(footprint),
        "minimum_flops": least,
        "flops": None if work is None else work.flops,
        "flops_over_minimum": None if work is None else work.flops / least,
        "bytes_moved": None if work is None else work.bytes_moved,
        "compute_seconds": None,
        "transfer_seconds": None,
        "roofline_seconds": None,
        "largest_batch": None if plan.batch is None else plan.batch.fits,
        "too_large_batch": None if plan.batch is None else plan.batch.too_large,
        "changes": [
            {"options": change.options, "fits": change.footprint.fits}
            | _footprint(change.footprint)
            for change in plan.changes
        ],
    }
    if work is not None and chip is not None:
        compute = work.flops / len(layout.devices) / chip.peak_flops
        transfer = work.bytes_moved / len(layout.devices) / chip.bandwidth
        values["compute_seconds"], values["transfer_seconds"] = compute, transfer
        values["roofline_seconds"] = max(compute, transfer)
    return values


def _footprint(footprint: Footprint) -> dict[str, Any]:
    return {
        "argument_bytes": footprint.arguments,
        "temporary_bytes": footprint.temporaries,
        "peak_bytes": footprint.peak,
        "compile_seconds": round(footprint.compile_seconds, 1),
    }


def to_text(plan: Plan) -> str:
    """The plan for people."""
    values = to_object(plan)
    where = "here" if plan.topology is None else plan.topology
    scanned = "scanned" if values["scan_layers"] else "unrolled"
    lines = [
        f"{values['model']}, {values['method']}, on {where}: {values['devices']} x "
        f"{values['device']}, {plan.scenario.layout}",
        f"step: batch {values['batch_size']}, prompt {values['prompt_length']} + input "
        f"{values['input_length']}, target {values['target_length']}; {values['dtype']}, remat "
        f"{values['remat']}, layers {scanned}, accumulation {values['accumulation']}",
        f"parameters: {values['parameters_frozen']:,} frozen, {values['parameters_trained']:,} "
        "trained",
        f"memory of a device: {memory_line(plan.footprint)}{_verdict(values)}",
    ]
    if values["flops"] is None:
        lines.append(
            f"FLOPs: not counted, a few unrolled layers do not fit; at least "
            f"{values['minimum_flops']:.4g}"
        )
    else:
        lines += [
            f"FLOPs a step: {values['flops']:.4g}, {values['flops_over_minimum']:.3f} x the "
            f"minimum of {values['minimum_flops']:.4g}",
            f"bytes moved a step: {_gib(values['bytes_moved'])}",
        ]
    if values["roofline_seconds"] is not None:
        lines.append(
            f"roofline: {values['roofline_seconds']:.3f} s a step "
            f"({values['compute_seconds']:.3f} s computing, {values['transfer_seconds']:.3f} s "
            "moving bytes; transfers between chips not counted)"
        )
    if plan.batch is not None:
        lines.append(_batch_line(plan.batch))
    lines.append(f"compile time: {values['compile_seconds']:.1f} s")
    for change in values["changes"]:
        peak = change["peak_bytes"]
        needs = "" if peak is None else f" ({_gib(peak)})"
        lines.append(f"{change['options']}: {'fits' if change['fits'] else 'does not fit'}{needs}")
    return "\n".join(lines)


def memory_line(footprint: Footprint) -> str:
    """What a step takes on a device, in words."""
    parts = [f"{_gib(footprint.arguments)} of arguments"]
    if footprint.temporaries is not None:
        parts.append(f"{_gib(footprint.temporaries)} of temporaries")
    if footprint.peak is not None:
        parts.append(f"{_gib(footprint.peak)} in all")
    return ", ".join(parts)


def _verdict(values: dict[str, Any]) -> str:
    if values["memory_bytes"] is None:
        return ""
    fits = "fits" if values["fits"] else "DOES NOT FIT"
    return f", of {_gib(values['memory_bytes'])}: {fits}"


def _batch_line(batch: BatchSize) -> str:
    beyond = "" if batch.too_large is None else f" ({batch.too_large} does not)"
    if batch.fits is None:
        return f"largest batch that fits: none{beyond}"
    return f"largest batch that fits: {batch.fits}{beyond}"


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
