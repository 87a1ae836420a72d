"""A prompt trained on one task and evaluated on another."""

from collections.abc import Mapping
from types import MappingProxyType

_QQP_TO_MRPC = {"not_duplicate": "not_equivalent", "duplicate": "equivalent"}

_RENAMES: dict[tuple[str, str], Mapping[str, str]] = {
    ("glue/qqp", "glue/mrpc"): MappingProxyType(_QQP_TO_MRPC),
    ("glue/mrpc", "glue/qqp"): MappingProxyType({new: old for old, new in _QQP_TO_MRPC.items()}),
}


def rename_labels(source_task: str, target_task: str) -> Mapping[str, str] | None:
    """The words that predictions of one task have in another, which is to score them.

    QQP and MRPC ask the same of two texts and name their labels differently.

    Args:
        source_task: name of the task that the prompt was trained on.
        target_task: name of the task that it is evaluated on.

    Returns:
        From the source's label words to the target's; None where predictions are scored as they
        are. A prediction that is no key stays as it is, so the target's own words count too.

    References:
        Lester et al. 2021, section 5 and table 2.
    """
    return _RENAMES.get((source_task, target_task))
