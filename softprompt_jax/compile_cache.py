"""JAX's persistent compilation cache in the user's cache folder: second starts are quick.

`SOFTPROMPT_JAX_CACHE=off` turns it off, `JAX_COMPILATION_CACHE_DIR` puts it elsewhere, and where
JAX's own variables name other limits, these count. Importing the package changes nothing; commands
call `use_compile_cache`.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import jax

from softprompt_jax.errors import UserError

SWITCH = "SOFTPROMPT_JAX_CACHE"
"""Environment variable: "on" (the default) or "off"."""

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_SETTINGS: dict[str, float] = {
    # Loading takes a few milliseconds and a command compiles hundreds of small functions, each in
    # tens of them.
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}
_LARGEST = 4 * 2**30
"""Bytes of the folder; what was not used for longest is removed first."""


def use_compile_cache() -> None:
    """Turns the cache on for this process; a folder that cannot be written is told in one line.

    Raises:
        UserError: the switch is neither "on" nor "off".
    """
    switch = os.environ.get(SWITCH) or "on"
    if switch not in ("on", "off"):
        raise UserError(f"{SWITCH} is {switch!r}; set it to 'on' or 'off'.")
    if switch == "off":
        return
    settings = dict(_SETTINGS)
    if _FOLDER not in os.environ:
        folder = user_cache_folder(sys.platform, os.environ) / "softprompt_jax" / "compiled"
        problem = _make(folder)
        if problem is not None:
            print(
                f"The cache of compiled functions {folder} cannot be written ({problem}), so every "
                f"start compiles anew; set {_FOLDER} to another folder or {SWITCH}=off.",
                file=sys.stderr,
            )
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # The size of a folder of the user's own choice is the user's business.
        settings["jax_compilation_cache_max_size"] = _LARGEST
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def user_cache_folder(platform: str, environment: Mapping[str, str]) -> Path:
    """Where a user's programs keep what they can do without.

    Args:
        platform: as `sys.platform`.
        environment: as `os.environ`.

    References:
        XDG Base Directory Specification; Apple, "File System Programming Guide" (Library/Caches);
        Microsoft, "KNOWNFOLDERID" (LocalAppData).
    """
    if platform == "win32":
        given = environment.get("LOCALAPPDATA")
        return Path(given) if given else Path.home() / "AppData" / "Local"
    if platform == "darwin":
        return Path.home() / "Library" / "Caches"
    given = environment.get("XDG_CACHE_HOME", "")
    # A relative path is to be passed over, says the specification.
    return Path(given) if Path(given).is_absolute() else Path.home() / ".cache"


def _make(folder: Path) -> str | None:
    """Makes the folder; why it cannot be written, if so."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        return getattr(error, "strerror", None) or str(error)
    return None if os.access(folder, os.W_OK | os.X_OK) else "no permission"
