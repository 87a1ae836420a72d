"""Training speed of one recipe, ours and PEFT's in turn."""

import json
import os
import statistics

from softprompt_jax.benchmarks.rounds import Round, Side, spread
from softprompt_jax.benchmarks.worker import Workers, check_installed, tell
from softprompt_jax.config import RunConfig
from softprompt_jax.errors import UserError
from softprompt_jax.version import __version__


def check_comparison(config: RunConfig) -> None:
    """Finds what stands against a comparison with PEFT before anything is loaded.

    Raises:
        UserError: torch or peft is missing, or the recipe is none that PEFT's side follows.
    """
    check_installed()
    if config.train.method != "prompt_tuning":
        raise UserError(
            "--train.method model_tuning has no PEFT to compare with; use --against none."
        )
    if config.train.accumulation != 1:
        raise UserError(
            f"--train.accumulation is {config.train.accumulation}, but the comparison takes each "
            "batch in one piece; leave it out."
        )


def compare(
    config: RunConfig, against: str, rounds: int, steps_per_round: int
) -> list[Side[Round]]:
    """Lets the sides train in turn: one works while the others wait.

    So whatever else the machine does meets all sides alike, and the ratio of a round's speeds is
    steadier than the speeds.

    Args:
        config: the recipe; its steps are not looked at.
        against: "peft" or "none".
        rounds: turns of each side.
        steps_per_round: training steps a turn.

    Returns:
        Our side, then PEFT in random order and PEFT with batches grouped by length.

    Raises:
        UserError: a mistake in the recipe.
    """
    recipe = {"config": config.to_json()}
    with Workers() as workers:
        at_work = {f"softprompt_jax {__version__}": workers.start("softprompt_jax", "ours", recipe)}
        if against == "peft":
            place = {"folder": str(workers.folder)}
            with workers.start("the handover", "handover", recipe | place) as handover:
                setup = handover.about | place
            at_work |= workers.start_peft("peft_side", setup)
        sides = [Side[Round](name, worker.about, []) for name, worker in at_work.items()]
        batches = [spread(side.about["sizes"], rounds, steps_per_round) for side in sides]
        for number in range(rounds):
            for side, worker, picked in zip(sides, at_work.values(), batches, strict=True):
                answer = worker.ask({"batches": picked[number].tolist()})
                side.rounds.append(Round(**answer))
            speeds = ", ".join(f"{side.rounds[-1].examples_per_second:.1f}" for side in sides)
            tell(f"Round {number + 1} of {rounds}: {speeds} examples/s")
    return sides


def report(config: RunConfig, sides: list[Side[Round]]) -> str:
    """The figures for people."""
    ours, others = sides[0], sides[1:]
    rounds = len(ours.rounds)
    steps = ours.rounds[0].examples // config.train.batch_size
    lines = [
        f"Training {config.model.name} on {config.task.name}: {config.prompt.length} virtual "
        f"tokens, batches of {config.train.batch_size}, {ours.about['dtype']}, "
        f"{os.cpu_count()} CPUs.",
        f"Medians over {rounds} rounds of {steps} steps; the sides took turns.",
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
    return "\n".join(lines)


def padding(side: Side[Round]) -> float:
    """Share of padding among all tokens of inputs and targets, in [0, 1)."""
    total = sum(r.padded_tokens for r in side.rounds)
    return 1 - sum(r.tokens for r in side.rounds) / total


def to_json(sides: list[Side[Round]]) -> str:
    """The figures for programs, on one line.

    `ratio` and `ratio_grouped` are medians of the rounds' own ratios; `rounds` holds what each
    side did in each of its turns.
    """
    ours = sides[0]
    figures: dict[str, object] = {
        "examples_per_second": ours.examples_per_second,
        "peak_memory_bytes": ours.peak_memory_bytes,
        "compile_seconds": ours.about["compile_seconds"],
    }
    if len(sides) == 3:
        random, grouped = sides[1:]
        figures |= {
            "peft_examples_per_second": random.examples_per_second,
            "peft_peak_memory_bytes": random.peak_memory_bytes,
            "ratio": statistics.median(ours.ratios(random)),
            "peft_grouped_examples_per_second": grouped.examples_per_second,
            "peft_grouped_peak_memory_bytes": grouped.peak_memory_bytes,
            "ratio_grouped": statistics.median(ours.ratios(grouped)),
        }
    names = ("ours", "peft", "peft_grouped")
    figures["rounds"] = {
        name: [vars(round_) for round_ in side.rounds]
        for name, side in zip(names, sides, strict=False)
    }
    return json.dumps(figures)
