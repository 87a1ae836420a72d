"""Training speed of one recipe, ours and PEFT's in turn."""

import dataclasses
import json
import os
import statistics
from typing import Any

from softprompt_jax.benchmarks.rounds import Round, Side, spread
from softprompt_jax.benchmarks.worker import Workers, check_installed
from softprompt_jax.config import RunConfig, flatten
from softprompt_jax.errors import UserError
from softprompt_jax.progress import tell
from softprompt_jax.version import __version__

FOLLOWED: dict[str, tuple[Any, ...]] = {
    "train.method": ("prompt_tuning",),
    "train.freeze": ((),),
    "train.accumulation": (1,),
    "train.loss": ("tokens",),
    "train.z_loss": (0,),
    "model.dropout_rate": (0,),
    "optimizer.name": ("lester_adafactor", "adamw"),
    "optimizer.max_gradient_norm": (None,),
    "prompt.parameterization": ("plain",),
    "prompt.wayward_text": (None,),
    "task.mixture": ((),),
    "parallel.layout": ("auto", "pmap"),
    "parallel.devices": (None, 1),
    "parallel.data": (None, 1),
    "parallel.fsdp": (None, 1),
    "parallel.tensor": (None, 1),
    "parallel.processes": (None, 1),
}
"""Values of options that PEFT's side follows, where it does not follow all.

It trains a plain prompt of one task by the cross-entropy of target tokens, on one device and with
AdamW, as its guide does. Our side may have the paper's optimizer, as its own guide does; rates and
schedules change no speed.
"""


def check_comparison(config: RunConfig) -> None:
    """Finds what stands against a comparison with PEFT before anything is loaded.

    Raises:
        UserError: torch or peft is missing, or the recipe is none that PEFT's side follows.
    """
    values = flatten(config)
    for name, followed in FOLLOWED.items():
        if values[name] not in followed:
            mend = " or ".join(map(_as_text, followed))
            raise UserError(
                f"--{name} is {_as_text(values[name])}, which PEFT's side does not follow; make it "
                f"{mend}, or measure ours alone with --against none."
            )
    check_installed()


def _as_text(value: Any) -> str:
    return (" ".join(value) or "empty") if isinstance(value, tuple) else str(value)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        sides: ours, then PEFT in random order and PEFT grouped by length, or PEFT on our very
            batches, or nothing more.
        matmul: FLOP/s that JAX's matrix products reach on the devices of our side, one a round.
    """

    sides: list[Side[Round]]
    matmul: list[float]

    @property
    def step_flops(self) -> list[float]:
        """FLOP/s of our steps, one a round; what a step computes needlessly does not count."""
        return [(r.flops or 0) / r.seconds for r in self.sides[0].rounds]

    @property
    def share_of_matmul_limit(self) -> float:
        """The median of the rounds' own shares, mostly in (0, 1)."""
        return statistics.median(
            step / limit for step, limit in zip(self.step_flops, self.matmul, strict=True)
        )


def compare(
    config: RunConfig, workload: dict[str, Any], against: str, rounds: int, steps_per_round: int
) -> Comparison:
    """Lets the sides train in turn: one works while the others wait.

    So whatever else the machine does meets all sides alike, and the ratio of a round's speeds is
    steadier than the speeds. Matrix products have their turn too.

    Args:
        config: the recipe; its steps are not looked at.
        workload: the fields of a `Workload`.
        against: "peft" or "none".
        rounds: turns of each side.
        steps_per_round: training steps a turn.

    Raises:
        UserError: a mistake in the recipe.
    """
    recipe = {"config": config.to_json(), "workload": workload}
    with Workers() as workers:
        ours = workers.start("softprompt_jax", "ours", recipe)
        products = workers.start("matrix products", "matmul", ours.about["matmul"])
        at_work = {f"softprompt_jax {__version__}": ours}
        if against == "peft":
            place = {"folder": str(workers.folder)}
            with workers.start("the handover", "handover", recipe | place) as handover:
                setup = handover.about | place
            if workload["padding"] == "equal":
                setup |= {name: ours.about[name] for name in ("batches", "shape")}
                peft = workers.start("PEFT", "peft_side", setup, without_jax=True)
                at_work[f"PEFT {peft.about['version']}, our batches"] = peft
            else:
                at_work |= workers.start_peft("peft_side", setup)
        sides = [Side[Round](name, worker.about, []) for name, worker in at_work.items()]
        batches = [spread(side.about["sizes"], rounds, steps_per_round) for side in sides]
        matmul = []
        for number in range(rounds):
            for side, worker, picked in zip(sides, at_work.values(), batches, strict=True):
                answer = worker.ask({"batches": picked[number].tolist()})
                side.rounds.append(Round(**answer))
            matmul.append(ours.about["devices"] * products.ask({})["flops_per_second"])
            speeds = ", ".join(f"{side.rounds[-1].examples_per_second:.1f}" for side in sides)
            tell(f"Round {number + 1} of {rounds}: {speeds} examples/s")
    return Comparison(sides, matmul)


def report(config: RunConfig, workload: dict[str, Any], comparison: Comparison) -> str:
    """The figures for people."""
    sides = comparison.sides
    ours, others = sides[0], sides[1:]
    rounds = len(ours.rounds)
    steps = ours.rounds[0].examples // config.train.batch_size
    weights = " (random weights)" if workload["shape"] else ""
    data = f"lengths like {workload['lengths']}'s" if workload["lengths"] else config.task.name
    equal = "; all sides on the same padded batches" if workload["padding"] == "equal" else ""
    lines = [
        f"Training {config.model.name}{weights} on {data}: {config.prompt.length} virtual "
        f"tokens, batches of {config.train.batch_size}, {ours.about['dtype']}, "
        f"{os.cpu_count()} CPUs.",
        f"Medians over {rounds} rounds of {steps} steps; the sides took turns{equal}.",
        "",
        f"{'':34}{'examples/s':>12}{'peak memory':>14}{'compile time':>15}{'padding':>10}",
    ]
    for side in sides:
        compiling = side.about.get("compile_seconds")
        compiling = "none" if compiling is None else f"{compiling:.1f} s"
        lines.append(
            f"{side.name:34}{side.examples_per_second:>12.2f}"
            f"{side.peak_memory_bytes / 1e9:>11.2f} GB{compiling:>15}{padding(side):>10.1%}"
        )
    lines.append("")
    lines += [f"{side.name}: {side.about['software']}; {side.about['device']}" for side in sides]
    for side in others:
        ratios = ours.ratios(side)
        lines.append(
            f"Ours trains {statistics.median(ratios):.2f} times as many examples a second as "
            f"{side.name} (rounds: {min(ratios):.2f} to {max(ratios):.2f})."
        )
    lines.append(
        f"Our steps compute {statistics.median(comparison.step_flops) / 1e9:.1f} GFLOP/s, "
        f"{comparison.share_of_matmul_limit:.0%} of the "
        f"{statistics.median(comparison.matmul) / 1e9:.1f} GFLOP/s that JAX's matrix products of "
        "the model's sizes reached in the same rounds."
    )
    return "\n".join(lines)


def padding(side: Side[Round]) -> float:
    """Share of padding among all tokens of inputs and targets, in [0, 1)."""
    total = sum(r.padded_tokens for r in side.rounds)
    return 1 - sum(r.tokens for r in side.rounds) / total


def to_json(comparison: Comparison) -> str:
    """The figures for programs, on one line.

    `ratio` and `ratio_grouped` are medians of the rounds' own ratios; `rounds` holds what each
    side did in each of its turns. FLOP/s are medians, and so is their share.
    """
    sides = comparison.sides
    ours = sides[0]
    figures: dict[str, object] = {
        "examples_per_second": ours.examples_per_second,
        "peak_memory_bytes": ours.peak_memory_bytes,
        "compile_seconds": ours.about["compile_seconds"],
        "matmul_flops_per_second": statistics.median(comparison.matmul),
        "step_flops_per_second": statistics.median(comparison.step_flops),
        "share_of_matmul_limit": comparison.share_of_matmul_limit,
    }
    for side, suffix in zip(sides[1:], ("", "_grouped"), strict=False):
        figures |= {
            f"peft{suffix}_examples_per_second": side.examples_per_second,
            f"peft{suffix}_peak_memory_bytes": side.peak_memory_bytes,
            f"ratio{suffix}": statistics.median(ours.ratios(side)),
        }
    names = ("ours", "peft", "peft_grouped")
    figures["rounds"] = {
        name: [vars(round_) for round_ in side.rounds]
        for name, side in zip(names, sides, strict=False)
    }
    return json.dumps(figures)
