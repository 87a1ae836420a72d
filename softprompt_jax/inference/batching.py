"""From texts of any number and length to padded batches, of few shapes that recur."""

from collections.abc import Iterator, Sequence

import numpy as np

from softprompt_jax.data.tokenization import pad_rows


def padded_length(length: int, longest: int | None = None) -> int:
    """The next of a few lengths: 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80 and so on.

    From 16 on there are four in each doubling, so that at most a fifth of a row is padding. They
    are the same for every call, so that what was compiled once serves again.

    Args:
        length: tokens, at least 1.
        longest: never more than this, which holds the length.
    """
    step = max(4, 1 << max((length - 1).bit_length() - 3, 0))
    padded = -(-length // step) * step
    return padded if longest is None else min(padded, longest)


def batch_rows(
    rows: Sequence[Sequence[int]], batch_size: int, multiple: int = 1, longest: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every row once, with others of about its length.

    Args:
        rows: token ids, at least one each.
        batch_size: rows a batch; a power of two where that holds all rows and is smaller.
        multiple: of which the number of rows is one.
        longest: as for `padded_length`.

    Yields:
        ids, int32 [B, S], and their mask, padded on the right; and the indexes of the rows, int64
        [B], -1 for a row of padding, which has no real token.
    """
    size = batch_size
    if len(rows) < batch_size:
        size = 1
        while size < len(rows):
            size *= 2
    size = min(size, batch_size)
    size = -(-size // multiple) * multiple
    widths = np.array([padded_length(len(row), longest) for row in rows])
    different = np.unique(widths).tolist()
    waiting: list[int] = []
    for i, width in enumerate(different):
        members = waiting + np.flatnonzero(widths == width).tolist()
        # What does not fill a batch joins the next length, unless that is far longer.
        joins = i + 1 < len(different) and different[i + 1] <= 2 * width
        full = len(members) // size * size if joins else len(members)
        members, waiting = members[:full], members[full:]
        for start in range(0, len(members), size):
            part = members[start : start + size]
            missing = size - len(part)
            index = np.array(part + [-1] * missing, np.int64)
            ids, mask = pad_rows([rows[i] for i in part])
            more = ((0, missing), (0, width - ids.shape[1]))
            yield np.pad(ids, more), np.pad(mask, more), index


def pad_choices(
    choices: Sequence[Sequence[Sequence[int]]], longest: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ids of each row's choices, padded to shapes that recur.

    Length and number (from 5 on) are powers of two, so that what was compiled for 8 choices
    serves 5.

    Args:
        choices: token ids, at least one each.
        longest: no padding beyond this length; None: no limit.

    Returns:
        ids, int32 [n, C, T], and their mask. Choices that a row does not have are without a real
        token; what is computed for them means nothing.
    """
    count = padded_count(max(len(row) for row in choices))
    most = max(len(ids) for row in choices for ids in row)
    length = power_of_two(most)
    if longest is not None:
        length = max(min(length, longest), most)
    ids_NxCxT = np.zeros((len(choices), count, length), np.int32)
    mask_NxCxT = np.zeros(ids_NxCxT.shape, bool)
    for n, row in enumerate(choices):
        for c, ids in enumerate(row):
            ids_NxCxT[n, c, : len(ids)] = ids
            mask_NxCxT[n, c, : len(ids)] = True
    return ids_NxCxT, mask_NxCxT


def padded_count(choices: int) -> int:
    """How many choices there are with padding: a few stay as they are, more are a power of two."""
    # Beside three labels, which are common, a fourth would be a third more work.
    return choices if choices <= 4 else power_of_two(choices)


def power_of_two(number: int) -> int:
    """The least power of two that is no less than a number from 1 on."""
    return 1 << (number - 1).bit_length()
