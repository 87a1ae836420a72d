"""Raw examples as TFDS gives them, written by hand, and the texts that T5's code makes of them.

Each row is (example, input with T5's task word, target or targets). test_superglue.py tells how
they were compared with T5.
"""


def _row(label, idx=0, **fields):
    return {**fields, "label": label, "idx": idx}


BOOLQ = [
    (
        _row(
            1,
            question="is the sky blue",
            passage="Sky -- The sky is blue by day. It is dark at night.",
        ),
        "boolq passage: Sky -- The sky is blue by day. It is dark at night. "
        "question: is the sky blue",
        "True",
    ),
    (
        _row(0, question="do fish fly", passage="Fish -- Fish swim."),
        "boolq passage: Fish -- Fish swim. question: do fish fly",
        "False",
    ),
    (
        _row(0, question="  two  spaces ", passage="A tab\tand a line\nend."),
        "boolq passage: A tab\tand a line\nend. question:   two  spaces ",
        "False",
    ),
    (
        _row(1, question="is café — “quoted” ☃ kept", passage="Straße <b>bold</b><br>HTML stays"),
        "boolq passage: Straße <b>bold</b><br>HTML stays question: is café — “quoted” ☃ kept",
        "True",
    ),
    (
        _row(-1, question="without a label", passage=""),
        "boolq passage:  question: without a label",
        "<unk>",
    ),
]

CB = [
    (
        _row(0, premise="He knew that it rained.", hypothesis="it rained"),
        "cb hypothesis: it rained premise: He knew that it rained.",
        "entailment",
    ),
    (
        _row(1, premise="A: I don't think it rained. B: Uh.", hypothesis="it rained"),
        "cb hypothesis: it rained premise: A: I don't think it rained. B: Uh.",
        "contradiction",
    ),
    (
        _row(2, premise="If it rained, he'd stay.", hypothesis="it rained"),
        "cb hypothesis: it rained premise: If it rained, he'd stay.",
        "neutral",
    ),
    (
        _row(2, premise='"Bother!" she said\n. Did it?', hypothesis="hypothesis: it did"),
        'cb hypothesis: hypothesis: it did premise: "Bother!" she said\n. Did it?',
        "neutral",
    ),
    (
        _row(-1, premise="premise", hypothesis="hypothesis"),
        "cb hypothesis: hypothesis premise: premise",
        "<unk>",
    ),
]

COPA = [
    (
        _row(
            0,
            premise="My body cast a shadow over the grass.",
            choice1="The sun was rising.",
            choice2="The grass was cut.",
            question="cause",
        ),
        "copa choice1: The sun was rising. choice2: The grass was cut. "
        "premise: My body cast a shadow over the grass. question: cause",
        "choice1",
    ),
    (
        _row(1, premise="It fell.", choice1="It flew.", choice2="It broke.", question="effect"),
        "copa choice1: It flew. choice2: It broke. premise: It fell. question: effect",
        "choice2",
    ),
    (
        _row(1, premise="Same.", choice1="Same.", choice2="Same.", question="effect"),
        "copa choice1: Same. choice2: Same. premise: Same. question: effect",
        "choice2",
    ),
    (
        _row(0, premise="L'été vint.", choice1="Il fit chaud…", choice2="", question="cause"),
        "copa choice1: Il fit chaud… choice2:  premise: L'été vint. question: cause",
        "choice1",
    ),
    (
        _row(-1, premise="p", choice1="a", choice2="b", question="cause"),
        "copa choice1: a choice2: b premise: p question: cause",
        "<unk>",
    ),
]

RTE = [
    (
        _row(0, premise="Rome is Italy's capital.", hypothesis="Rome is in Italy."),
        "rte hypothesis: Rome is in Italy. premise: Rome is Italy's capital.",
        "entailment",
    ),
    (
        _row(1, premise="No weapons were found.", hypothesis="Weapons were found."),
        "rte hypothesis: Weapons were found. premise: No weapons were found.",
        "not_entailment",
    ),
    (
        _row(1, premise="Oil fell 2.5% to $40.", hypothesis="Oil rose."),
        "rte hypothesis: Oil rose. premise: Oil fell 2.5% to $40.",
        "not_entailment",
    ),
    (
        _row(0, premise="One.  Two. ", hypothesis=" Two\\1 $1."),
        "rte hypothesis:  Two\\1 $1. premise: One.  Two. ",
        "entailment",
    ),
    (_row(-1, premise="p", hypothesis="h"), "rte hypothesis: h premise: p", "<unk>"),
]


def _wic(label, word, sentence1, sentence2):
    # The indexes of the word in its sentences do not appear in the text.
    at = {"start1": 1, "end1": 4, "start2": 2, "end2": 5}
    return _row(label, word=word, sentence1=sentence1, sentence2=sentence2, **at)


WIC = [
    (
        _wic(1, "bed", "There's a lot of trash on the bed.", "He slept on a bed of straw."),
        "wic sentence1: There's a lot of trash on the bed. "
        "sentence2: He slept on a bed of straw. word: bed",
        "True",
    ),
    (
        _wic(0, "place", "Do you want to come over to my place later?", "The place of art."),
        "wic sentence1: Do you want to come over to my place later? "
        "sentence2: The place of art. word: place",
        "False",
    ),
    (
        _wic(0, "come up", "The sun came up .", "A chance came up ."),
        "wic sentence1: The sun came up . sentence2: A chance came up . word: come up",
        "False",
    ),
    (
        _wic(1, "naïve", "A naïve view — “so”.", "Naïve art."),
        "wic sentence1: A naïve view — “so”. sentence2: Naïve art. word: naïve",
        "True",
    ),
    (_wic(-1, "w", "a w", "b w"), "wic sentence1: a w sentence2: b w word: w", "<unk>"),
]


def _multirc(label, question, answer, paragraph, at):
    idx = dict(zip(("paragraph", "question", "answer"), at, strict=True))
    return _row(label, idx, question=question, answer=answer, paragraph=paragraph)


# All HTML of this kind goes, wherever it stands, and only what is written just so.
MULTIRC = [
    (
        _multirc(
            1,
            "Who ran?",
            "Bo",
            "<b>Sent 1: </b>Bo ran.<br><b>Sent 2: </b>Di sat.<br>",
            (0, 0, 0),
        ),
        "multirc question: Who ran? answer: Bo paragraph: Sent 1: Bo ran. Sent 2: Di sat. ",
        "True",
    ),
    (
        _multirc(0, "Who ran?", "Di", "Bo ran.", (0, 0, 1)),
        "multirc question: Who ran? answer: Di paragraph: Bo ran.",
        "False",
    ),
    (
        _multirc(1, "Is 1<br>2 <b>?", "a</b><br><br>b", "<B>x</B><br/><br >y<i>z</i>", (0, 1, 2)),
        "multirc question: Is 1 2 ? answer: a  b paragraph: <B>x</B><br/><br >y<i>z</i>",
        "True",
    ),
    (
        _multirc(0, "Nested <b<b>>", "<<br>b>", "</</b>b>", (7, 12, 40)),
        "multirc question: Nested <b> answer: < b> paragraph: </b>",
        "False",
    ),
    (
        _multirc(0, "Wer läuft?", "Jürgen\\", "Jürgen\tsaß\nda.", (7, 13, 41)),
        "multirc question: Wer läuft? answer: Jürgen\\ paragraph: Jürgen\tsaß\nda.",
        "False",
    ),
    (
        _multirc(-1, "q", "a", "p", (8, 14, 42)),
        "multirc question: q answer: a paragraph: p",
        "<unk>",
    ),
]


def _record(query, entities, passage, answers, at=(0, 0)):
    idx = {"passage": at[0], "query": at[1]}
    return {
        "query": query,
        "entities": entities,
        "passage": passage,
        "answers": answers,
        "idx": idx,
    }


RECORD = [
    (
        _record(
            "A @placeholder is a bird.",
            ["penguin", "pigeon", "potato"],
            "Birds and roots.\n@highlight\nTwo are birds\n@highlight\nOne grows",
            ["penguin", "pigeon"],
        ),
        "record query: A @placeholder is a bird. entities: penguin, pigeon, potato "
        "passage: Birds and roots. Two are birds. One grows",
        ["penguin", "pigeon"],
    ),
    (
        # The sentence before a highlight ends with each of the five marks that need no full stop.
        _record(
            "In @placeholder",
            ["Rome"],
            "a?\n@highlight\nb!\n@highlight\nc\"\n@highlight\nd'\n@highlight\ne.\n@highlight\nf,"
            "\n@highlight\ng",
            ["Rome"],
            (3, 9),
        ),
        "record query: In @placeholder entities: Rome passage: a? b! c\" d' e. f,. g",
        ["Rome"],
    ),
    (
        # Only a highlight on a line of its own is one.
        _record(
            "@highlight\n@placeholder",
            ["A, B", "C"],
            "@highlight\nx @highlight y\n@highlight \nz\n@highlight",
            ["C"],
        ),
        "record query: @highlight\n@placeholder entities: A, B, C "
        "passage: @highlight\nx @highlight y\n@highlight \nz\n@highlight",
        ["C"],
    ),
    (
        # Two highlights that share a line end: the second has lost it to the first.
        _record("q", ["É"], "a.\n@highlight\n@highlight\nb\n\n@highlight\nc", ["É"]),
        "record query: q entities: É passage: a. @highlight\nb\n. c",
        ["É"],
    ),
    (
        _record("q \\1", ["x", "y", "z"], "p “q”\n@highlight\nr", ["x", "y", "z"]),
        "record query: q \\1 entities: x, y, z passage: p “q”. r",
        ["x", "y", "z"],
    ),
    (_record("q", [], "p", []), "record query: q entities:  passage: p", ["<unk>"]),
]


def _wsc(label, text, noun, pronoun, at, noun_at=0):
    return _row(
        label,
        text=text,
        span1_text=noun,
        span1_index=noun_at,
        span2_text=pronoun,
        span2_index=at,
    )


PONY = (
    "The boy continued to whip the pony , and eventually the pony threw him over. John laughed out "
    "quite loud. "
)
MAGIC = (
    "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the magic "
    "pebble in an iron safe . Some day they might want to use "
)
WISH = " , but really for now, what more could they wish for?"

WSC = [
    (
        _wsc(
            1,
            "Mark told Pete many lies about himself , which Pete put in his book.",
            "Mark",
            "himself",
            6,
        ),
        "wsc: Mark told Pete many lies about *himself* , which Pete put in his book.",
        "Mark",
    ),
    (
        _wsc(0, "Mitchell asked Tom if he could lend him money.", "Tom", "he", 4, 2),
        "wsc: Mitchell asked Tom if *he* could lend him money.",
        "Tom",
    ),
    (
        # Only the word at the index is marked; it comes with its capital letter.
        _wsc(1, "He saw that he won. He was glad.", "The man", "He", 5),
        "wsc: He saw that he won. *He* was glad.",
        "The man",
    ),
    (
        # The pronoun as the last word leaves a space behind it; spaces in a row stay.
        _wsc(0, "Bo met  Di and thanked her", "Bo", "her", 6),
        "wsc: Bo met  Di and thanked *her* ",
        "Bo",
    ),
    (
        # T5 marks the place with an X first, and so takes every lone X for it.
        _wsc(1, "Malcolm X knew X , and he said so", "Malcolm X", "he", 6),
        "wsc: Malcolm *he* knew *he* , and *he* said so",
        "Malcolm X",
    ),
    (
        _wsc(1, PONY + '"Good for him," he said. ', "the pony", "him", 21),
        "wsc: " + PONY + '"Good for *him* ," he said.',
        "the pony",
    ),
    (
        _wsc(0, MAGIC + "it" + WISH, "the safe", "it", 27),
        "wsc: " + MAGIC + "*it*" + WISH,
        "the safe",
    ),
]


def _dpr(label, sentence, pronoun, candidates):
    return {
        "sentence": sentence,
        "pronoun": pronoun,
        "candidates": candidates,
        "label": label,
    }


DPR = [
    (
        _dpr(1, "Bob asked Tom if he can lend some money.", "he", ["Bob", "Tom"]),
        "wsc: Bob asked Tom if *he* can lend some money.",
        "Tom",
    ),
    (
        # Only the first of several, and no part of a word (the, other).
        _dpr(0, "Then the other saw he knew he won.", "he", ["Then", "the other"]),
        "wsc: Then the other saw *he* knew he won.",
        "Then",
    ),
    (
        _dpr(0, "The bees liked flowers, so people kept them.", "them", ["The bees", "flowers"]),
        "wsc: The bees liked flowers, so people kept *them*.",
        "The bees",
    ),
    (
        _dpr(1, "Of them, they ate.", "them", ["dogs", "cats"]),
        "wsc: Of *them*, they ate.",
        "cats",
    ),
    (
        # At the start of the sentence, or before another mark, it is not found: T5 leaves it.
        _dpr(0, "He asked him; so he? said", "he", ["Zoë", "Bo"]),
        "wsc: He asked him; so he? said",
        "Zoë",
    ),
]

FIELDS = {
    "boolq": BOOLQ,
    "cb": CB,
    "copa": COPA,
    "rte": RTE,
    "wic": WIC,
    "multirc": MULTIRC,
}
