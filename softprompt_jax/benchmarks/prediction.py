"""Speed of answers to rows of mixed tasks, ours and PEFT's in turn.

What makes the sides equal:

- The weights, the prompts (one a task), the texts and the choices are the same, in float32 and with
  the same rows a batch at most. Tokenising and decoding text count on all sides.
- No answer ends before its last token: the model that both sides load names no end of sequence. So
  tokens a second are tokens that were generated, and all sides generate as many.
- Classification compares the log-likelihoods of the choices, which are one token each; the likelier
  one is a row's prediction. How many predictions and texts are the same on both sides is measured
  with the speed, on the same rows.

Each row goes to one of the tasks. Ours mixes them in its batches; `prediction_peft` tells what PEFT
does instead, and in what order.
"""

import dataclasses
import json
import os
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from softprompt_jax.benchmarks.rounds import Side, Turn
from softprompt_jax.benchmarks.worker import Workers
from softprompt_jax.progress import tell
from softprompt_jax.tasks.task import get_task
from softprompt_jax.version import __version__

TASK = "movie_reviews"
WORKS = ("classification", "generation")


class Options(NamedTuple):
    """What is measured.

    Attributes:
        model: name or folder.
        against: "peft" or "none".
        prompts: number of tasks; each has a prompt of its own.
        prompt_length: virtual tokens of each.
        batch_size: rows a batch at most.
        max_new_tokens: of each generated answer.
        rounds: turns of each side.
        rows_per_round: rows classified a turn.
        generated_rows_per_round: the first so many of them, which are answered with texts too.
    """

    model: str
    against: str
    prompts: int
    prompt_length: int
    batch_size: int
    max_new_tokens: int
    rounds: int
    rows_per_round: int
    generated_rows_per_round: int


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far a side's answers are ours.

    Attributes:
        predictions: share of the classified rows with the same likeliest choice.
        score_difference: the largest difference between log-likelihoods, in nats.
        texts: share of the generated texts that are the same.
    """

    predictions: float
    score_difference: float
    texts: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        sides: for each of `WORKS`, our side, then PEFT in random order and grouped by length.
        agreements: of the sides after ours.
        added_prompt: what adding a prompt and classifying rows with it took: `seconds` and
            `compilations`.
    """

    sides: dict[str, list[Side[Turn]]]
    agreements: list[Agreement]
    added_prompt: dict[str, Any]


def compare(options: Options) -> Comparison:
    """Lets the sides answer in turn: one works while the others wait.

    Raises:
        UserError: a model that cannot be compared.
    """
    task = get_task(TASK)
    texts = [task.text_pairs(row)[0][0] for row in task.split("test")]
    texts = texts[: options.rounds * options.rows_per_round]
    setup = {
        "model": options.model,
        "prompts": options.prompts,
        "prompt_length": options.prompt_length,
        "batch_size": options.batch_size,
        "max_new_tokens": options.max_new_tokens,
        "choices": task.labels,
        "texts": texts,
    }
    with Workers() as workers:
        setup["folder"] = str(workers.folder)
        one_more = {"prompts": options.prompts + 1}
        with workers.start("the handover", "prediction_handover", setup | one_more) as handover:
            setup |= handover.about
        ours = workers.start("softprompt_jax", "prediction_ours", setup)
        at_work = {f"softprompt_jax {__version__}": ours}
        if options.against == "peft":
            at_work |= workers.start_peft("prediction_peft", setup)
        sides = {
            work: [Side[Turn](name, worker.about, []) for name, worker in at_work.items()]
            for work in WORKS
        }
        answers: dict[str, list[list[Any]]] = {work: [[] for _ in at_work] for work in WORKS}
        for number, work, rows in _turns(options, len(texts)):
            for side, worker, said in zip(
                sides[work], at_work.values(), answers[work], strict=True
            ):
                done = worker.ask({"work": work, "rows": rows})
                side.rounds.append(Turn(done["seconds"], len(rows), done["peak_memory_bytes"]))
                said += done["answers"]
            speeds = ", ".join(f"{s.rounds[-1].examples_per_second:.1f}" for s in sides[work])
            tell(f"Round {number + 1} of {options.rounds}, {work}: {speeds} examples/s")
        # A full batch, whose shapes our side has met.
        rows = [i % len(texts) for i in range(options.batch_size)]
        added_prompt = ours.ask({"work": "another prompt", "rows": rows})
    scores, generated = (answers[work] for work in WORKS)
    agreements = [
        _agree(np.asarray(scores[0]), np.asarray(scores[i]), generated[0], generated[i])
        for i in range(1, len(at_work))
    ]
    return Comparison(sides, agreements, added_prompt)


def _turns(options: Options, texts: int) -> Iterator[tuple[int, str, list[int]]]:
    """The number of the round, what is to be done in it and with which of the texts."""
    for number in range(options.rounds):
        start = number * options.rows_per_round
        rows = (np.arange(start, start + options.rows_per_round) % texts).tolist()
        yield number, "classification", rows
        yield number, "generation", rows[: options.generated_rows_per_round]


def _agree(
    ours: np.ndarray, theirs: np.ndarray, our_texts: list[str], their_texts: list[str]
) -> Agreement:
    return Agreement(
        predictions=float(np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1))),
        score_difference=float(np.abs(ours - theirs).max()),
        texts=float(np.mean([a == b for a, b in zip(our_texts, their_texts, strict=True)])),
    )


def tokens_per_second(options: Options, side: Side[Turn]) -> float:
    """Of a side that generates: the median over rounds."""
    return side.examples_per_second * options.max_new_tokens


def report(options: Options, comparison: Comparison) -> str:
    """The figures for people."""
    classifying, generating = (comparison.sides[work] for work in WORKS)
    lines = [
        f"Answers of {options.model} to {TASK}: {options.prompts} prompts of "
        f"{options.prompt_length} virtual tokens, batches of {options.batch_size}, float32, "
        f"{os.cpu_count()} CPUs.",
        f"Medians over {options.rounds} rounds of {classifying[0].rounds[0].examples} rows "
        f"classified and {generating[0].rounds[0].examples} rows answered with "
        f"{options.max_new_tokens} tokens; the sides took turns.",
        "",
        f"{'':34}{'examples/s':>12}{'tokens/s':>10}{'peak memory':>14}{'compile time':>14}"
        f"{'same class':>12}{'same text':>11}",
    ]
    for i, (side, generator) in enumerate(zip(classifying, generating, strict=True)):
        compiling, same_class, same_text = "none", "", ""
        if i == 0:
            compiling = f"{side.about['compile_seconds']:.1f} s"
        else:
            agreement = comparison.agreements[i - 1]
            same_class, same_text = f"{agreement.predictions:.1%}", f"{agreement.texts:.1%}"
        lines.append(
            f"{side.name:34}{side.examples_per_second:>12.2f}"
            f"{tokens_per_second(options, generator):>10.1f}"
            f"{generator.peak_memory_bytes / 1e9:>11.2f} GB{compiling:>14}"
            f"{same_class:>12}{same_text:>11}"
        )
    lines.append("")
    lines += [f"{s.name}: {s.about['software']}; {s.about['device']}" for s in classifying]
    for i, agreement in enumerate(comparison.agreements, start=1):
        examples = classifying[0].ratios(classifying[i])
        tokens = generating[0].ratios(generating[i])
        lines.append(
            f"Ours classifies {statistics.median(examples):.2f} times as many examples a second as "
            f"{classifying[i].name} (rounds: {min(examples):.2f} to {max(examples):.2f}) and "
            f"generates {statistics.median(tokens):.2f} times as many tokens (rounds: "
            f"{min(tokens):.2f} to {max(tokens):.2f}); scores differ by "
            f"{agreement.score_difference:.1g} at most."
        )
    added = comparison.added_prompt
    lines.append(
        f"One more prompt, added and asked for {options.batch_size} rows: "
        f"{added['seconds']:.2f} s, {added['compilations']} compilations "
        f"({classifying[0].about['compilations']} before the first round)."
    )
    return "\n".join(lines)


def to_json(options: Options, comparison: Comparison) -> str:
    """The figures for programs, on one line.

    Ratios are medians of the rounds' own ratios, which are in `ratios`; `rounds` holds what each
    side did in each of its turns.
    """
    classifying, generating = (comparison.sides[work] for work in WORKS)
    names = ("ours", "peft", "peft_grouped")
    figures: dict[str, Any] = options._asdict()
    del figures["rounds"]  # as many as the lists at the end have
    ratios: dict[str, dict[str, list[float]]] = {}
    for i, (name, side, generator) in enumerate(zip(names, classifying, generating, strict=False)):
        prefix = "" if i == 0 else f"{name}_"
        figures |= {
            f"{prefix}examples_per_second": side.examples_per_second,
            f"{prefix}tokens_per_second": tokens_per_second(options, generator),
            f"{prefix}peak_memory_bytes": generator.peak_memory_bytes,
        }
        if i == 0:
            figures["compile_seconds"] = side.about["compile_seconds"]
            continue
        ratios[name] = {
            "examples_per_second": classifying[0].ratios(side),
            "tokens_per_second": generating[0].ratios(generator),
        }
        suffix = name.removeprefix("peft")
        figures |= {
            f"ratio_{what}{suffix}": statistics.median(values)
            for what, values in ratios[name].items()
        }
        agreement = comparison.agreements[i - 1]
        figures |= {
            f"{prefix}agreement": agreement.predictions,
            f"{prefix}score_difference": agreement.score_difference,
            f"{prefix}text_agreement": agreement.texts,
        }
    figures |= {
        "compilations": classifying[0].about["compilations"],
        "recompiles_of_added_prompt": comparison.added_prompt["compilations"],
        "seconds_of_added_prompt": comparison.added_prompt["seconds"],
        "ratios": ratios,
        "rounds": {
            work: {
                name: [vars(turn) for turn in side.rounds]
                for name, side in zip(names, comparison.sides[work], strict=False)
            }
            for work in WORKS
        },
    }
    return json.dumps(figures)
