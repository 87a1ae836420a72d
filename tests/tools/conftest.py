import importlib
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def tool():
    """Imports a script of tools/, which is no package."""
    folder = Path(__file__).resolve().parents[2] / "tools"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield importlib.import_module
