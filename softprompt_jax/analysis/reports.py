"""The reports of analyses as text."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from softprompt_jax.analysis.similarity import TITLES

_SHOWN_REPEATED = 10
_LONGEST_TOKEN = 24
_SHOWN_POSITIONS = 8


def as_text(report: Mapping[str, Any]) -> str:
    """The report of any analysis, as a terminal shows it."""
    kinds: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
        "neighbours": neighbours,
        "labels": labels,
        "similarity": similarity,
        "waywardness": waywardness,
        "trajectory": trajectory,
    }
    return "\n".join(kinds[report["analysis"]](report)).rstrip()


def shown(text: str) -> str:
    """A token's text in few letters: ▁ stands for a space, ⏎ for a line's end, ▁×8 for 8 spaces."""
    marked = text.replace(" ", "▁").replace("\n", "⏎")
    marked = re.sub(r"([▁⏎])\1{3,}", lambda run: f"{run[1]}×{len(run[0])}", marked)  # noqa: RUF001
    marked = "".join(c if c.isprintable() else repr(c)[1:-1] for c in marked)
    return marked if len(marked) <= _LONGEST_TOKEN else f"{marked[: _LONGEST_TOKEN - 1]}…"


def table(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Aligned lines.

    Args:
        rows: of cells, as many in each.
        left: so many columns are aligned on the left, the others on the right.
    """
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _width(cell))
            cells.append(cell + space if i < left else space + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def _width(text: str) -> int:
    """Columns that a text takes: two for a wide character, none for a combining mark."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


# --------------------------------------------------------------------------------- the reports


def neighbours(report: Mapping[str, Any]) -> list[str]:
    """The nearest tokens of each position, and how they compare with those of random vectors."""
    k = report["k"]
    lines = [
        f"{report['model']}: {report['tokens']:,} tokens, mean norm "
        f"{report['mean_token_norm']:.2f}; cosines"
    ]
    for name, prompt in report["prompts"].items():
        lines += ["", _title(name, prompt)]
        rows = []
        for position, told in enumerate(prompt["positions"]):
            cells = []
            for token in told["neighbours"]:
                cells += [shown(token["text"]), f"{token['cosine']:.2f}"]
            rows.append([str(position), f"{told['norm']:.2f}", *cells])
        lines += _neighbour_table(rows)
        ours, control = prompt["summary"], prompt["control"]
        count = len(prompt["positions"])
        both = [["", "prompt", f"random vectors of the same norms (seed {report['seed']})"]]
        for what, field in (
            ("cosine to the nearest token, mean", "nearest_cosine_mean"),
            ("least", "nearest_cosine_least"),
            ("most", "nearest_cosine_most"),
            (f"cosine among a position's {k} neighbours, mean", "cosine_among_neighbours"),
        ):
            both.append([what, *(_number(side[field], 3) for side in (ours, control))])
        both.append(
            [
                "different nearest tokens",
                *(f"{side['different_nearest']} of {count}" for side in (ours, control)),
            ]
        )
        both.append(
            [
                "tokens near several positions",
                *(str(side["tokens_of_several_positions"]) for side in (ours, control)),
            ]
        )
        lines += ["", *table(both)]
        for token in prompt["repeated"][:_SHOWN_REPEATED]:
            lines.append(f"  {shown(token['text'])}: positions {_positions(token['positions'])}")
        rest = len(prompt["repeated"]) - _SHOWN_REPEATED
        if rest > 0:
            lines.append(f"  and {rest} more")
    return lines


def _neighbour_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Numbers on the right, tokens on the left, the cosine close to its token."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = [f"position  {'norm'.rjust(widths[1])}  nearest tokens"]
    for position, norm, *cells in rows:
        pairs = [
            f"{token}{' ' * (width - _width(token))} {cosine.rjust(space)}"
            for token, cosine, width, space in zip(
                cells[::2], cells[1::2], widths[2::2], widths[3::2], strict=True
            )
        ]
        norm = norm.rjust(max(widths[1], len("norm")))
        lines.append("  ".join([position.rjust(len("position")), norm, *pairs]).rstrip())
    return lines


def labels(report: Mapping[str, Any]) -> list[str]:
    """Where each label is among the neighbours of the positions."""
    k = report["k"]
    lines = [f"{report['model']}: places among {report['tokens']:,} tokens, 1 is the nearest"]
    for name, prompt in report["prompts"].items():
        head = ["label", "pieces", "own position", "place there", "best place", "at", f"near ({k})"]
        rows = [head]
        for label in prompt["labels"]:
            near = label["near_positions"]
            rows.append(
                [
                    label["label"],
                    "|".join(map(shown, label["pieces"])),
                    or_dash(label["own_position"]),
                    or_dash(label["own_rank"]),
                    str(label["best_rank"]),
                    str(label["best_position"]),
                    f"{len(near)} of {prompt['length']}",
                ]
            )
        lines += ["", _title(name, prompt), *table(rows, left=2)]
    rows = [["start", "prompts", "labels", "near own position", "near any", "near several"]]
    for init, summary in report["by_init"].items():
        own = summary["near_own"]
        count = summary["labels"]
        rows.append(
            [
                init,
                str(summary["prompts"]),
                str(count),
                "-" if own is None else f"{own} of {count}",
                f"{summary['near_any']} of {count}",
                f"{summary['near_several']} of {count}",
            ]
        )
    return [*lines, "", f"near: among the {k} nearest", *table(rows)]


def similarity(report: Mapping[str, Any]) -> list[str]:
    """The matrices, with the prompts' numbers for columns."""
    names = list(report["prompts"])
    rows = [["", "task", "start", "positions", "norm of the mean"]]
    for i, (name, prompt) in enumerate(report["prompts"].items()):
        rows.append(
            [
                f"{i + 1} {name}",
                or_dash(prompt["task"]),
                or_dash(prompt["init"]),
                str(prompt["length"]),
                f"{prompt['mean_vector_norm']:.2f}",
            ]
        )
    lines = [f"{len(names)} prompts of {report['model'] or 'one model'}", *table(rows, left=3)]
    for measure, matrix in report["cosines"].items():
        rows = [["", *(str(i + 1) for i in range(len(names)))]]
        for i, (name, row) in enumerate(zip(names, matrix, strict=True)):
            rows.append([f"{i + 1} {name}", *(f"{value:.3f}" for value in row)])
        lines += ["", TITLES[measure], *table(rows)]
    if "position" not in report["cosines"]:
        lines += ["", "The prompts have several lengths: like positions are not compared."]
    return lines


def waywardness(report: Mapping[str, Any]) -> list[str]:
    """Loss and metrics of each prompt as it is and as tokens."""
    cut = f" ({report['cut_inputs']} inputs of the split cut)" if report["cut_inputs"] else ""
    lines = [
        f"{report['model']}, {report['task']}: {report['examples']} rows{cut}; nearest of "
        f"{report['tokens']:,} tokens by Euclidean distance"
    ]
    for name, prompt in report["prompts"].items():
        metrics = list(prompt["trained"]["metrics"])
        rows = [["", "loss", *metrics, "distance", "of the norm", "cosine"]]
        for what, field in (
            ("trained", "trained"),
            ("as its nearest tokens", "discretised"),
            ("as the text", "text"),
        ):
            if field not in prompt:
                continue
            told = prompt[field]
            cells = [f"{told['loss']:.4f}", *(f"{told['metrics'][m]:.4f}" for m in metrics)]
            if field == "trained":
                cells += ["-"] * 3
            else:
                cells += [f"{told['distance']:.3f}", f"{told['relative_distance']:.3f}"]
                cells += [f"{told['cosine']:.3f}"]
            rows.append([what, *cells])
        lines += ["", _title(name, prompt), *table(rows)]
        lines.append(f"nearest tokens: {_tokens(prompt['discretised']['tokens'])}")
        if "text" in prompt:
            count = len(prompt["text"]["tokens"])
            lines.append(f"the text's tokens: {_tokens(prompt['text']['tokens'])}")
            lines.append(
                f"positions whose nearest token is the text's: "
                f"{prompt['positions_nearest_to_text']} of {count}"
            )
    return lines


def trajectory(report: Mapping[str, Any]) -> list[str]:
    """What the run kept, step by step."""
    points = report["points"]
    known = "nearest" in points[0]
    head = ["step", "from", "mean norm", "from start", "last move", "turn"]
    head += ["cos start", "cos end", *(["new nearest"] if known else [])]
    rows = [head]
    for point in points:
        row = [
            str(point["step"]),
            point["kept"],
            f"{point['mean_norm']:.3f}",
            f"{point['from_start']:.3f}",
            _number(point["from_last"], 3),
            _number(point["turn"], 3),
            f"{point['cosine_with_start']:.3f}",
            f"{point['cosine_with_end']:.3f}",
        ]
        if known:
            changed = point["nearest_changed"]
            row.append("-" if changed is None else f"{changed} of {report['length']}")
        rows.append(row)
    lines = [f"{report['run']}: {report['length']} positions", *table(rows, left=2)]
    lines += ["turn: cosine between this move and the one before; distances over the whole prompt"]
    if known:
        lines += ["", "Nearest token of each position"]
        rows = [["position", *(f"step {point['step']}" for point in points)]]
        for position in range(report["length"]):
            texts = [shown(point["nearest"][position]["text"]) for point in points]
            rows.append([str(position), *texts])
        lines += table(rows, left=len(rows[0]))
    return lines


def _title(name: str, prompt: Mapping[str, Any]) -> str:
    known = [str(prompt[fact]) for fact in ("task", "init") if prompt[fact] is not None]
    return f"{name} ({', '.join(known)})" if known else name


def _tokens(tokens: Sequence[Mapping[str, Any]]) -> str:
    return "|".join(shown(token["text"]) for token in tokens)


def _positions(positions: Sequence[int]) -> str:
    told = ", ".join(map(str, positions[:_SHOWN_POSITIONS]))
    rest = len(positions) - _SHOWN_POSITIONS
    return told if rest <= 0 else f"{told} and {rest} more"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def or_dash(value: Any) -> str:
    """A value as a table has it; a dash where there is none."""
    return "-" if value is None else str(value)
