"""Trains the small T5s' vocabulary: Unigram pieces and 100 sentinels, in T5's layout.

python tools/build_vocabulary.py CORPUS OUTPUT [--pieces 8000]

CORPUS is a text file with a paragraph a line (train.txt of build_corpus.py). OUTPUT gets
tokenizer.json and tokenizer_config.json, which transformers loads as a T5 tokenizer. The same
corpus gives the same bytes.

- Ids are T5's: 0 <pad>, 1 </s>, 2 <unk>, then pieces from likely to unlikely, then
  <extra_id_99> … <extra_id_0>; the last one has the highest id. Every text ends with </s>.
- All of ASCII and the Latin letters of Western Europe are pieces; what else is rare in the corpus
  is <unk>. A digit is always a piece of its own.
- Text is normalised before it is cut, by a table that holds what NFKC does to Latin script, ASCII
  and white space (ligatures, full-width letters, accents that stand apart), and that turns
  typographic quotes and dashes into the plain ones that the corpus has. T5's own table is NFKC over
  all scripts and keeps those marks.
"""

import argparse
import io
import itertools
import json
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

PAD, EOS, UNKNOWN = SPECIAL = ("<pad>", "</s>", "<unk>")  # in the order of their ids
SENTINELS = tuple(f"<extra_id_{number}>" for number in reversed(range(100)))
CHARACTERS = "".join(
    char
    for char in map(chr, [*range(0x21, 0x7F), *range(0xA1, 0x100), 0x152, 0x153])
    if char.isascii()
    or char in "£§©°"
    or (char.isalpha() and char not in "ªºµ")  # those are NFKC's
)
COVERAGE = 0.99995  # of the corpus's characters; the others are <unk>
SAMPLED = 4  # one paragraph in so many is looked at

_MARKS = (
    dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"')
    | dict.fromkeys("\u2018\u2019\u2032\u00b4", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-")
    | dict.fromkeys("\u2014\u2015", " -- ")
    | dict.fromkeys("\u00ad\ufeff\ufffd\u200b", "")
)


def normalization() -> dict[str, str]:
    """What is replaced, and by what."""

    def latin(text: str) -> bool:
        return all(ord(char) < 0x250 or 0x1E00 <= ord(char) < 0x1F00 for char in text)

    table = {}
    for char in map(chr, range(0x80, sys.maxunicode + 1)):
        plain = unicodedata.normalize("NFKC", char).replace("\u2044", "/")  # the bar of fractions
        if plain != char and latin(plain):
            table[char] = plain
        apart = unicodedata.normalize("NFD", char)
        if apart != char and latin(char):
            table[apart] = plain
    table |= dict.fromkeys("\t\n\r\x0b\x0c\x85\u2028\u2029", " ")
    return table | _MARKS


def _paragraphs(corpus: Path) -> Iterator[str]:
    with corpus.open(encoding="utf-8") as file:
        yield from itertools.islice(filter(None, map(str.strip, file)), 0, None, SAMPLED)


def train(corpus: Path, pieces: int) -> tuple[list[tuple[str, float]], bytes]:
    """The pieces with their log probabilities in the order of their ids, and the compiled table."""
    lines = [
        "\t".join(" ".join(f"{ord(char):X}" for char in text) for text in rule)
        for rule in sorted(normalization().items())
    ]
    written = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text("\n".join(lines) + "\n", encoding="ascii")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_paragraphs(corpus),
            model_writer=written,
            model_type="unigram",
            vocab_size=pieces,
            normalization_rule_tsv=str(rules),
            character_coverage=COVERAGE,
            required_chars=CHARACTERS,
            split_digits=True,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            pad_piece=PAD,
            eos_piece=EOS,
            unk_piece=UNKNOWN,
            max_sentence_length=2**20,  # bytes; longer paragraphs would be left out
            shuffle_input_sentence=False,
            num_threads=2,  # what the threads add up depends on their number
            minloglevel=1,
        )
    model = sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())
    scores = [(piece.piece, round(piece.score, 5)) for piece in model.pieces]
    return scores, model.normalizer_spec.precompiled_charsmap


def build(pieces: list[tuple[str, float]], table: bytes) -> Tokenizer:
    """The tokenizer, built as transformers builds a T5's."""
    vocabulary = [*pieces, *((sentinel, 0.0) for sentinel in SENTINELS)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(table)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[(EOS, 1)]
    )
    special = [AddedToken(token, normalized=False) for token in (*SPECIAL, *SENTINELS)]
    tokenizer.add_special_tokens(special)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the two files."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "T5Tokenizer",
        "pad_token": PAD,
        "eos_token": EOS,
        "unk_token": UNKNOWN,
        "extra_ids": len(SENTINELS),
        "additional_special_tokens": [*reversed(SENTINELS)],
        "clean_up_tokenization_spaces": False,
    }
    for name, content in (
        ("tokenizer.json", json.loads(tokenizer.to_str())),
        ("tokenizer_config.json", config),
    ):
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Trains the small T5s' vocabulary.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--pieces", type=int, default=8000, help="sentinels not counted")
    arguments = parser.parse_args()
    save(build(*train(arguments.corpus, arguments.pieces)), arguments.output)


if __name__ == "__main__":
    main()
