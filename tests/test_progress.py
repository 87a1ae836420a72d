import io
import sys
import types

import pytest

from softprompt_jax.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("where", ["terminal", "notebook", "file", "CI"])
def test_the_bar_is_seen_where_somebody_looks(where, monkeypatch):
    stream = io.StringIO() if where in ("notebook", "file") else Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if where == "notebook":
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    if where == "CI":
        monkeypatch.setenv("CI", "1")
    with progress_bar(7, "row", initial=3) as bar:
        bar.update(4)
    assert ("7/7" in stream.getvalue()) == (where in ("terminal", "notebook"))
