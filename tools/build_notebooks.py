"""Makes the notebooks of colab/ from their text form, which is what is edited and reviewed.

    python tools/build_notebooks.py

Needs jupytext. The same text always gives the same notebook, without outputs.
"""

from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parents[1] / "colab"


def build(source: Path) -> str:
    """A notebook as JSON, from cells between lines of `# %%`."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"  # by itself it would be another one each time
        cell.metadata = {}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.py")):
        path.with_suffix(".ipynb").write_text(build(path), encoding="utf-8")
        print(path.with_suffix(".ipynb"))
