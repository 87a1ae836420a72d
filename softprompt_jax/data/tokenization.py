"""From (input, target) strings to token ids, once per split.

How text becomes tokens, the same in training, evaluation and prediction:

- Inputs keep the special tokens that the tokenizer puts around a text: a BOS in front, T5's `</s>`
  at the end. A causal model reads on from its input, so there a closing EOS is left out.
- A causal model's target follows its input after exactly one space. The space belongs to the
  target's first token (" positive" is one token), so spaces that end an input are dropped, and a
  target has the same ids whatever the input is.
- Targets to train on end with the model's end-of-sequence id, once.
"""

import dataclasses
import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal, Protocol

import numpy as np

from softprompt_jax.errors import UserError

Row = Sequence[int] | np.ndarray

# Text that is tokenised at a time: the tokenizer takes some hundred bytes a token on the way.
_CHUNK_ROWS = 8192
_CHUNK_CHARACTERS = 2**20


class TokenConfig(Protocol):
    """The part of a model's config that tokenisation needs."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a sequence; the first one ends training targets."""
        ...

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether inputs and targets go to different stacks, as in T5."""
        ...


@dataclasses.dataclass(frozen=True)
class TokenizedExamples:
    """Token ids of n examples, one flat array for all of them.

    Attributes:
        inputs: int32 [total input tokens]; row i is `inputs[input_offsets[i]:input_offsets[i+1]]`.
        input_offsets: int64 [n + 1].
        targets: int32 [total target tokens], each row with its end-of-sequence id.
        target_offsets: int64 [n + 1].
        truncated_inputs: number of inputs that were cut.
        truncated_targets: number of targets that were cut.
    """

    inputs: np.ndarray
    input_offsets: np.ndarray
    targets: np.ndarray
    target_offsets: np.ndarray
    truncated_inputs: int = 0
    truncated_targets: int = 0

    def __len__(self) -> int:
        return len(self.input_offsets) - 1

    @staticmethod
    def from_rows(inputs: Sequence[Row], targets: Sequence[Row]) -> "TokenizedExamples":
        """Examples of ids that are at hand, one list a row."""
        return TokenizedExamples(*_flatten(inputs), *_flatten(targets))

    def first(self, count: int) -> "TokenizedExamples":
        """The first rows; the counts of what was cut stay those of the whole split."""
        return dataclasses.replace(
            self,
            input_offsets=self.input_offsets[: count + 1],
            target_offsets=self.target_offsets[: count + 1],
        )

    def fingerprint(self) -> str:
        """16 hex digits that change with any row's ids."""
        digest = hashlib.sha256()
        for flat, offsets in (
            (self.inputs, self.input_offsets),
            (self.targets, self.target_offsets),
        ):
            digest.update(np.ascontiguousarray(offsets).data)
            digest.update(np.ascontiguousarray(flat[: offsets[-1]]).data)
        return digest.hexdigest()[:16]

    @property
    def input_lengths(self) -> np.ndarray:
        """Tokens of each input: int64 [n], all at least 1."""
        return np.diff(self.input_offsets)

    @property
    def target_lengths(self) -> np.ndarray:
        """Tokens of each target: int64 [n], all at least 1."""
        return np.diff(self.target_offsets)


def tokenize_pairs(
    pairs: Iterable[tuple[str, str]],
    tokenizer: Any,
    config: TokenConfig,
    max_input_length: int,
    max_target_length: int,
    truncate: Literal["end", "start"] = "end",
    *,
    keep_suffix: str = "",
    labels: Sequence[str] = (),
) -> TokenizedExamples:
    """Tokenises a split.

    Works through the pairs in chunks: beyond the ids, memory does not grow with their number.

    Args:
        pairs: (input, target) strings; gone through once.
        tokenizer: a transformers tokenizer.
        config: of the model.
        max_input_length: tokens of an input at most, special tokens included.
        max_target_length: tokens of a target at most, its end-of-sequence id included.
        truncate: which end of an input that is too long is cut.
        keep_suffix: see `encode_inputs`.
        labels: targets that may not be cut, because a cut label is another label.

    Raises:
        UserError: there are no pairs, an input has no tokens, or a label or the suffix is longer
            than the limit.
    """
    # Arrays, because they grow in place: joining the parts at the end would hold all ids twice.
    input_ids, input_offsets = array("i"), array("q", [0])
    target_ids, target_offsets = array("i"), array("q", [0])
    truncated_inputs = truncated_targets = 0
    for chunk in _chunks(pairs):
        inputs, truncated = encode_inputs(
            [text for text, _ in chunk],
            tokenizer,
            config,
            max_input_length,
            truncate,
            keep_suffix=keep_suffix,
            first_row=len(input_offsets) - 1,
        )
        truncated_inputs += truncated
        _append(inputs, input_ids, input_offsets)
        # Labels repeat: each different target is tokenised once.
        by_target, cut = _targets_with_end(
            dict.fromkeys(target for _, target in chunk),
            tokenizer,
            config,
            max_target_length,
            labels,
        )
        truncated_targets += sum(target in cut for _, target in chunk)
        _append([by_target[target] for _, target in chunk], target_ids, target_offsets)
    if len(input_offsets) == 1:
        raise UserError("The split has no examples to train or evaluate on; it needs at least one.")
    return TokenizedExamples(
        inputs=np.frombuffer(input_ids, np.int32),
        input_offsets=np.frombuffer(input_offsets, np.int64),
        targets=np.frombuffer(target_ids, np.int32),
        target_offsets=np.frombuffer(target_offsets, np.int64),
        truncated_inputs=truncated_inputs,
        truncated_targets=truncated_targets,
    )


def _chunks(pairs: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    chunk, size = [], 0
    for pair in pairs:
        chunk.append(pair)
        size += len(pair[0]) + len(pair[1])
        if len(chunk) == _CHUNK_ROWS or size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _append(rows: Sequence[Sequence[int]], flat: array, offsets: array) -> None:
    ids, more = _flatten(rows)
    flat.frombytes(ids.tobytes())
    offsets.frombytes((offsets[-1] + more[1:]).tobytes())


def _targets_with_end(
    targets: Iterable[str],
    tokenizer: Any,
    config: TokenConfig,
    max_length: int,
    labels: Sequence[str],
) -> tuple[dict[str, list[int]], set[str]]:
    """The ids of each target with its end of sequence, and the targets that had to be cut."""
    eos = _eos(config)
    unique = list(targets)
    by_target, cut = {}, set()
    for target, ids in zip(unique, encode_targets(unique, tokenizer, config), strict=True):
        if len(ids) + 1 > max_length:
            if target in labels:
                raise UserError(
                    f"The label {target!r} has {len(ids) + 1} tokens with its end of sequence; "
                    f"raise max_target_length, which is {max_length}."
                )
            cut.add(target)
        by_target[target] = [*ids[: max_length - 1], eos]
    return by_target, cut


def encode_texts(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The ids of texts without special tokens, in one call to the fast tokenizer."""
    if not texts:
        return []
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # no remark on texts longer than the model's window: they may be cut yet
    )["input_ids"]


def encode_inputs(
    texts: Sequence[str],
    tokenizer: Any,
    config: TokenConfig,
    max_length: int | None = None,
    truncate: Literal["end", "start"] = "end",
    *,
    keep_suffix: str = "",
    first_row: int = 0,
) -> tuple[list[list[int]], int]:
    """The ids of inputs, special tokens included.

    Args:
        texts: the inputs.
        tokenizer: a transformers tokenizer.
        config: of the model.
        max_length: tokens at most, special tokens included; None: no limit.
        truncate: which end of an input that is too long is cut; special tokens stay.
        keep_suffix: when the end of an input that closes with this text is cut, the cut is made
            before it ("review: … sentiment:" stays a question).
        first_row: number of the first text in its split, for errors.

    Returns:
        One list of ids an input, none of them empty, and how many were cut.

    Raises:
        UserError: an input has no tokens, or the limit leaves no room for any of its text.
    """
    if not config.is_encoder_decoder:
        texts = [text.rstrip(" ") for text in texts]
        keep_suffix = keep_suffix.rstrip(" ")
    front, end = _special_tokens(tokenizer)
    if not config.is_encoder_decoder:
        end = [token for token in end if token not in config.eos_ids]
    contents = encode_texts(texts, tokenizer)
    room = None if max_length is None else max_length - len(front) - len(end)
    suffix = _ids_after_anchor([keep_suffix], tokenizer)[0] if keep_suffix else []
    truncated = 0
    rows = []
    for row, ids in enumerate(contents):
        if not (front or ids or end):
            raise UserError(
                f"Input {first_row + row} (counted from 0) is {texts[row]!r}, which has no tokens; "
                "fill it in or remove the row."
            )
        if room is not None and len(ids) > room:
            truncated += 1
            if room < 1:
                raise UserError(
                    f"max_input_length is {max_length}, which leaves no room beside special "
                    "tokens; raise it."
                )
            if truncate == "start":
                ids = ids[-room:]
            elif suffix and texts[row].endswith(keep_suffix):
                if len(suffix) >= room:
                    raise UserError(
                        f"max_input_length is {max_length}, but the end {keep_suffix!r} that every "
                        f"input keeps has {len(suffix)} tokens; raise it."
                    )
                ids = ids[: room - len(suffix)] + suffix
            else:
                ids = ids[:room]
        rows.append([*front, *ids, *end])
    return rows, truncated


def encode_targets(targets: Sequence[str], tokenizer: Any, config: TokenConfig) -> list[list[int]]:
    """The ids of targets without end of sequence.

    For T5 a target is a text of its own; for a causal model it is what follows an input and one
    space, white space around the target dropped.
    """
    if config.is_encoder_decoder:
        rows = encode_texts(targets, tokenizer)
    else:
        stripped = [target.strip() for target in targets]
        rows = _ids_after_anchor([f" {target}" if target else "" for target in stripped], tokenizer)
    for ids in rows:
        while ids and ids[-1] in config.eos_ids:
            ids.pop()
    return rows


def decode_answers(ids_NxT: np.ndarray, tokenizer: Any, config: TokenConfig) -> list[str]:
    """The text of each generated row up to its end of sequence.

    What follows that is padding, which may have the id of an ordinary token. The text is what the
    tokens say: spaces before punctuation stay, even where the tokenizer's config would have them
    taken out, so that more tokens only ever add text.
    """
    ends_NxT = np.isin(ids_NxT, config.eos_ids)
    rows = [
        ids[: ends.argmax()] if ends.any() else ids
        for ids, ends in zip(ids_NxT, ends_NxT, strict=True)
    ]
    return tokenizer.batch_decode(
        rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def without_prefix(answer: str, target_prefix: str) -> str:
    """A generated answer without the text that the model says before each target.

    A prefix that is a special token is gone already, since decoding leaves such tokens out.
    """
    return answer.strip().removeprefix(target_prefix.strip()).strip()


def encode_choices(choices: Sequence[str], tokenizer: Any, config: TokenConfig) -> list[list[int]]:
    """The ids whose likelihood decides between choices, such as a task's labels.

    They have no end of sequence, unless the ids of one choice begin another's ("good" and "good
    enough"): then all have it, because the shorter choice could never lose otherwise.

    Raises:
        UserError: there are no choices, one has no tokens, or two have the same tokens.
    """
    if not choices:
        raise UserError("There are no choices to score; give at least one.")
    rows = encode_targets(choices, tokenizer, config)
    seen: dict[tuple[int, ...], str] = {}
    for choice, ids in zip(choices, rows, strict=True):
        if not ids:
            raise UserError(f"The choice {choice!r} has no tokens; give it a text.")
        if tuple(ids) in seen:
            raise UserError(
                f"The choices {seen[tuple(ids)]!r} and {choice!r} have the same tokens, so the "
                "model cannot tell them apart; rename one."
            )
        seen[tuple(ids)] = choice
    if any(tuple(ids[:cut]) in seen for ids in rows for cut in range(1, len(ids))):
        eos = _eos(config)
        rows = [[*ids, eos] for ids in rows]
    return rows


def encode_labels(labels: Sequence[str], tokenizer: Any, config: TokenConfig) -> list[list[int]]:
    """The ids of labels as training targets have them, end of sequence included."""
    return [[*ids, _eos(config)] for ids in encode_targets(labels, tokenizer, config)]


def pad_rows(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as int32 ids and bool mask, both `[rows, longest]`, padded on the right."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    mask = np.zeros(ids.shape, bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return ids, mask


def _eos(config: TokenConfig) -> int:
    if not config.eos_ids:
        raise UserError(
            "The model's config names no end-of-sequence id (eos_token_id); targets cannot end."
        )
    return config.eos_ids[0]


def _ids_after_anchor(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The ids of texts as they continue another text.

    A tokenizer may treat the start of a text in its own way (SentencePiece puts a space there), so
    each text is tokenised behind an anchor whose ids are then taken off. Where the ids of the
    anchor change under what follows, the text's own ids have to do.
    """
    anchor = ":"
    anchor_ids = encode_texts([anchor], tokenizer)[0]
    joined = encode_texts([anchor + text for text in texts], tokenizer)
    rows = []
    for text, ids in zip(texts, joined, strict=True):
        if ids[: len(anchor_ids)] == anchor_ids:
            rows.append(ids[len(anchor_ids) :])
        else:
            rows.append(encode_texts([text], tokenizer)[0])
    return rows


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special ids that the tokenizer puts before and after a text."""
    content = encode_texts(["a"], tokenizer)[0]
    full = list(tokenizer("a")["input_ids"])
    for start in range(len(full) - len(content) + 1):
        if content and full[start : start + len(content)] == content:
            return full[:start], full[start + len(content) :]
    raise ValueError(f"the tokenizer gives {content} without and {full} with special tokens")


def _flatten(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(ids) for ids in rows], out=offsets[1:])
    return np.fromiter(chain.from_iterable(rows), np.int32, count=int(offsets[-1])), offsets
