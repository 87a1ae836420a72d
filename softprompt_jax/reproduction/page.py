"""All results of a preset on one page of HTML that needs no other file."""

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softprompt_jax.errors import UserError
from softprompt_jax.files import write_text
from softprompt_jax.reproduction.catalogue import EXPERIMENTS
from softprompt_jax.reproduction.figures import heading
from softprompt_jax.reproduction.results import as_markdown

_STYLE = """
body { font-family: sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; }
td, th { border: 1px solid #bbb; padding: 0.2rem 0.6rem; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; }
code { background: #eee; }
.table { overflow-x: auto; }
"""


def write_page(folder: Path) -> Path:
    """Gathers what is there of a preset's results.

    Args:
        folder: that has the results of one preset, as `Experiment.run` wrote them.

    Returns:
        The page, `report.html` in the folder.

    Raises:
        UserError: there are no results.
    """
    sections, contents = [], []
    for name in EXPERIMENTS:
        path = folder / f"{name}.json"
        if path.exists():
            told = json.loads(path.read_text(encoding="utf-8"))
            sections.append(_section(told, folder / f"{name}.png"))
            contents.append(f'<li><a href="#{name}">{html.escape(heading(told))}</a></li>')
    if not sections:
        raise UserError(f"There are no results in {folder}; run an experiment first.")
    page = folder / "report.html"
    name = f"Lester et al. 2021, preset {folder.name}"
    write_text(
        page,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>{name}</h1>\n"
        f"<ul>\n{chr(10).join(contents)}\n</ul>\n{chr(10).join(sections)}\n</body></html>\n",
    )
    return page


def _section(told: Mapping[str, Any], picture: Path) -> str:
    lines = as_markdown(told).splitlines()
    parts = [f'<section id="{told["experiment"]}">']
    table: list[str] = []
    for line in [*lines, ""]:
        if line.startswith("|"):
            table.append(line)
            continue
        if table:
            parts.append(_table(table))
            if picture.exists():
                parts.append(_picture(picture, told))
            table = []
        if line.startswith("## "):
            parts.append(f"<h2>{html.escape(line[3:])}</h2>")
        elif line:
            parts.append(f"<p>{_inline(line.removeprefix('- '))}</p>")
    versions = ", ".join(f"{name} {value}" for name, value in told["versions"].items())
    parts.append(f"<p>{html.escape(versions)}</p></section>")
    return "\n".join(parts)


def _table(lines: list[str]) -> str:
    rows = [line[2:-2].split(" | ") for line in lines if not line.startswith("| ---")]
    head, *body = rows
    return (
        '<div class="table"><table><tr>'
        + "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        + "</tr>\n"
        + "\n".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in body
        )
        + "</table></div>"
    )


def _picture(path: Path, told: Mapping[str, Any]) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(told["title"])}" src="data:image/png;base64,{data}">'


def _inline(text: str) -> str:
    """Text with `code` in it."""
    pieces = html.escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))
