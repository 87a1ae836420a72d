"""Files and folders are whole or absent, whenever the process dies."""

import os

import pytest

from softprompt_jax import files
from softprompt_jax.errors import UserError
from softprompt_jax.files import check_replaceable, recover_folder, replace_folder, write_text


class KilledError(BaseException):
    """Stands for the end of the process: no `except Exception` sees it."""


def write_version(folder, text):
    with replace_folder(folder) as fresh:
        (fresh / "a.txt").write_text(text)
        (fresh / "inner").mkdir()
        (fresh / "inner" / "b.txt").write_text(text)


def read_version(folder):
    a, b = (folder / "a.txt").read_text(), (folder / "inner" / "b.txt").read_text()
    assert a == b
    return a


def siblings(folder):
    return sorted(path.name for path in folder.parent.iterdir())


def test_a_folder_is_made_and_replaced(tmp_path):
    folder = tmp_path / "deep" / "best"
    for text in ("one", "two", "three"):
        write_version(folder, text)
        assert read_version(folder) == text
        assert siblings(folder) == ["best"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_while_writing_keeps_the_old_one(tmp_path, error):
    folder = tmp_path / "best"
    write_version(folder, "one")

    def fail():
        with replace_folder(folder) as fresh:
            (fresh / "a.txt").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert read_version(folder) == "one"
    assert siblings(folder) == ["best"]


@pytest.mark.parametrize("survived", [0, 1])
def test_death_at_each_move(tmp_path, monkeypatch, survived):
    """Moves: the old one steps aside, the new one takes its name."""
    folder = tmp_path / "best"
    write_version(folder, "one")
    moves, rename = [], os.rename

    def die_after(source, target):
        if len(moves) == survived:
            raise KilledError
        rename(source, target)
        moves.append(target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "rename", die_after)
        with pytest.raises(KilledError):
            write_version(folder, "two")
    assert folder.exists() == (survived == 0)
    recover_folder(folder)
    assert read_version(folder) == "one"
    write_version(folder, "three")  # sweeps what was left behind
    assert read_version(folder) == "three"
    assert siblings(folder) == ["best"]


def test_death_before_the_old_one_is_removed(tmp_path, monkeypatch):
    folder = tmp_path / "best"
    write_version(folder, "one")

    def die_when_new(_):
        if read_version(folder) == "two":
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(files, "_remove_old", die_when_new)
        with pytest.raises(KilledError):
            write_version(folder, "two")
    recover_folder(folder)
    assert read_version(folder) == "two"
    write_version(folder, "three")
    assert siblings(folder) == ["best"]


def test_a_reader_that_recovers_at_the_wrong_moment(tmp_path, monkeypatch):
    """A prompt may be loaded from another process between the writer's two moves."""
    folder = tmp_path / "best"
    write_version(folder, "one")
    rename, put_back = os.rename, []

    def meddled(source, target):
        rename(source, target)
        if str(target).endswith(".old") and not put_back:
            put_back.append(True)
            recover_folder(folder)
            assert read_version(folder) == "one"

    monkeypatch.setattr(files.os, "rename", meddled)
    write_version(folder, "two")
    assert put_back
    assert read_version(folder) == "two"
    assert siblings(folder) == ["best"]


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "best"
    link.symlink_to(tmp_path / "disk" / "best")
    for text in ("one", "two"):
        write_version(link, text)
        assert read_version(link) == text
    assert link.is_symlink()
    assert siblings(link) == ["best", "disk"]
    assert siblings(tmp_path / "disk" / "best") == ["best"]


def test_a_move_that_fails_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    folder = tmp_path / "best"
    write_version(folder, "one")
    rename = os.rename

    def refuse(source, target):
        if str(source).endswith(".tmp"):
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError):
        write_version(folder, "two")
    monkeypatch.undo()
    assert read_version(folder) == "one"
    assert siblings(folder) == ["best"]


def test_recovering_what_was_never_there(tmp_path):
    recover_folder(tmp_path / "best")
    assert list(tmp_path.iterdir()) == []


def test_write_text_replaces_whole_files(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_text(path, "één\n")
    assert path.read_text(encoding="utf-8") == "één\n"

    def die(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", die)
        with pytest.raises(KilledError):
            write_text(path, "two")
    assert path.read_text(encoding="utf-8") == "één\n"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    write_text(path, "three")
    assert path.read_text() == "three"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_files_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        with replace_folder(tmp_path / "folder") as fresh:
            (fresh / "a.txt").touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "folder" / "a.txt").stat().st_mode & 0o777 == 0o640


def test_unfinished_work_on_a_folder_of_a_longer_name_is_left_alone(tmp_path):
    """`wsc` is a beginning of `wsc.fixed`, which another process may be writing."""
    other = tmp_path / ".wsc.fixed.123.tmp"
    other.mkdir()
    (tmp_path / ".wsc.99.tmp").mkdir()
    write_version(tmp_path / "wsc", "one")
    assert siblings(other) == [".wsc.fixed.123.tmp", "wsc"]


@pytest.mark.parametrize(
    ("held", "fits"),
    [
        ((), True),
        (("a",), True),
        (("a", "b"), True),
        (("b",), False),
        (("a", "notes.md"), False),
        (("a", ".git/"), False),
        (("a", "inner/"), False),
    ],
)
def test_only_what_we_wrote_is_replaced(tmp_path, held, fits):
    for name in held:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    if fits:
        check_replaceable(tmp_path, "a thing", ["a"], ["a", "b"])
        return
    with pytest.raises(UserError, match="holds something else than a thing, which saving would"):
        check_replaceable(tmp_path, "a thing", ["a"], ["a", "b"])


def test_neither_files_nor_the_current_folder_are_replaced(tmp_path, monkeypatch):
    check_replaceable(tmp_path / "new", "a thing", ["a"], ["a"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file holds something else"):
        check_replaceable(tmp_path / "file", "a thing", ["a"], ["a"])
    monkeypatch.chdir(tmp_path)
    for name in (".", f"../{tmp_path.name}"):
        with pytest.raises(UserError, match="is the current folder, which saving replaces"):
            check_replaceable(files.Path(name), "a thing", ["a"], ["a"])
