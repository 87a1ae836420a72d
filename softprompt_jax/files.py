"""Files and folders that are whole or absent, whenever the process dies."""

import contextlib
import errno
import glob
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from softprompt_jax.errors import UserError


def expand_user(path: str | Path) -> Path:
    """A path with ~ for the home folder; of a user whom nobody knows it stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_text(path: Path, text: str) -> None:
    """Replaces a file's text in one move."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces a file's content in one move; its folder is there."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def check_replaceable(
    folder: Path, kind: str, needed: Collection[str], allowed: Collection[str]
) -> None:
    """Refuses to replace a folder that holds other things than we put there.

    Args:
        folder: to be replaced.
        kind: what it may hold, in words, such as "a prompt".
        needed: names of the files by which such a folder is known.
        allowed: names of all that it may hold.

    Raises:
        UserError: it is neither absent nor empty nor of that kind, or the current folder.
    """
    if not folder.exists():
        return
    if folder.resolve() == Path.cwd():
        raise UserError(f"{folder} is the current folder, which saving replaces; name another.")
    held = {path.name for path in (folder.iterdir() if folder.is_dir() else [folder])}
    if held and not set(needed) <= held <= set(allowed):
        raise UserError(
            f"{folder} holds something else than {kind}, which saving would delete; choose "
            "another folder."
        )


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which becomes `folder` when all went well.

    A folder cannot be replaced in one move as a file can: the old one first steps aside as
    `.NAME.old`. `recover_folder` puts it back if the process died between the two moves. A folder
    has one writer at a time, and any number of readers. Where it is a symbolic link, what it points
    to is replaced.
    """
    if folder.is_symlink():
        folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    # By number only: that of a folder whose name goes on after ours may be under way.
    for unfinished in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        if unfinished.name.removeprefix(f".{folder.name}.").removesuffix(".tmp").isdecimal():
            shutil.rmtree(unfinished, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    try:
        for path in fresh.rglob("*"):
            if path.is_file():
                # safetensors lets nobody but the owner read what it writes.
                path.chmod(fresh.stat().st_mode & 0o666)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        recover_folder(folder)
        while not _moved(fresh, folder):
            _remove_old(folder)
            os.rename(folder, _old(folder))
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        recover_folder(folder)
        raise
    _remove_old(folder)


def recover_folder(folder: Path) -> None:
    """Puts back what `replace_folder` moved aside, if the process died before it could go on."""
    if not folder.exists():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            _moved(_old(folder), folder)


def _moved(source: Path, folder: Path) -> bool:
    """Gives a folder its name, unless that name is taken: perhaps by a reader that recovered it."""
    try:
        os.rename(source, folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _remove_old(folder: Path) -> None:
    shutil.rmtree(_old(folder), ignore_errors=True)
