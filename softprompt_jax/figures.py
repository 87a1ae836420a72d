"""Figures as PNG files; needs matplotlib, and no display."""

import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softprompt_jax.errors import UserError


def check_installed() -> None:
    """Refuses to plot without matplotlib, before anything is computed.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "Figures need matplotlib, which is not installed; run "
            "pip install 'softprompt-jax[plots]'."
        )


def save_png(path: Path, draw: Callable[[Any], None], size: tuple[float, float]) -> None:
    """Draws into a PNG file, which is whole or absent.

    Args:
        path: of the file.
        draw: on an empty matplotlib figure, which it may resize.
        size: of the figure, in inches.

    Raises:
        UserError: as `check_installed`.
    """
    check_installed()
    import matplotlib

    # Names and labels are anybody's: no formulas in them, and fonts lack some of their letters.
    options: Any = {"text.parse_math": False, "font.size": 10}
    with warnings.catch_warnings(), matplotlib.rc_context(options):
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            figure.savefig(fresh, format="png", dpi=150)
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
