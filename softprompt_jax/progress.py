"""What tells how far a command is, apart from its results: a bar, and lines."""

import os
import sys
from typing import Any

from tqdm import tqdm


def tell(line: str) -> None:
    """Says a line on standard error."""
    print(line, file=sys.stderr, flush=True)


def progress_bar(total: int, unit: str, *, initial: int = 0, **options: Any) -> "tqdm[Any]":
    """A bar on standard error, in terminals and notebooks; elsewhere and in CI nothing is shown.

    Args:
        total: of the units that come.
        unit: in the singular.
        initial: how many of them were done before.
        options: more of tqdm's.
    """
    # A notebook's standard error is no terminal, but shows a bar as one does.
    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        total=total,
        initial=initial,
        unit=unit,
        file=sys.stderr,
        disable=not seen or "CI" in os.environ,
        **options,
    )
