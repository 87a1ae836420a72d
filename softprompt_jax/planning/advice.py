"""The largest batch that fits, and what makes a step fit: found by compiling."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, get_args

from softprompt_jax.errors import UserError
from softprompt_jax.models.blocks import Remat
from softprompt_jax.planning.compiling import Footprint, Scenario, measure_memory, memory_limit
from softprompt_jax.training.setup import resolve_remat

# The TPU's compiler keeps some memory to itself: 0.25 of 16 GiB on a v5e.
_USABLE = 0.984
_REMATS = get_args(Remat)

Say = Callable[[str], None]


class BatchSize(NamedTuple):
    """Where the limit lies.

    Attributes:
        fits: the largest batch that was found to fit; None if not even the smallest does.
        too_large: the smallest that was found not to.
    """

    fits: int | None
    too_large: int | None


class Change(NamedTuple):
    """A change that was tried.

    Attributes:
        options: as on the command line.
        footprint: with it.
    """

    options: str
    footprint: Footprint


def largest_batch(
    scenario: Scenario, first: Footprint, say: Say, max_compiles: int = 6
) -> BatchSize | None:
    """Searches the largest batch that fits; None where memory has no known limit.

    Memory grows nearly in proportion to the batch, so each guess is a line through what was
    measured; the search ends when less than a sixteenth is open.

    Args:
        scenario: what is planned.
        first: its footprint with its own batch.
        say: told what is compiled.
        max_compiles: steps compiled at most.
    """
    limit = memory_limit(scenario.devices)
    if limit is None:
        return None
    options = scenario.config.train
    unit = scenario.layout.shards * options.accumulation
    measured = {options.batch_size: first}
    for _ in range(max_compiles):
        fits = max((b for b, x in measured.items() if x.fits), default=None)
        too_large = min((b for b, x in measured.items() if not x.fits), default=None)
        if too_large is not None and too_large - (fits or 0) <= max(unit, (fits or 0) // 16):
            break
        guess = _guess(measured, int(limit * _USABLE), unit)
        lowest = (fits or 0) + unit
        highest = 4 * lowest if too_large is None else too_large - unit
        if not lowest <= guess <= highest:
            guess = lowest if guess < lowest else highest
        say(f"--train.batch_size {guess}")
        measured[guess] = measure_memory(scenario.changed({"train.batch_size": guess}))[0]
    return BatchSize(
        max((b for b, x in measured.items() if x.fits), default=None),
        min((b for b, x in measured.items() if not x.fits), default=None),
    )


def _guess(measured: dict[int, Footprint], limit: int, unit: int) -> int:
    """The batch whose peak would be the limit, down to a multiple of `unit`."""
    points = sorted((b, x.peak) for b, x in measured.items() if x.peak is not None)
    if not points:
        return min(measured) // 2 // unit * unit
    if len(points) == 1:
        points.insert(0, (0, next(iter(measured.values())).arguments))
    # The two that are nearest to the limit.
    (low, low_peak), (high, high_peak) = sorted(
        sorted(points, key=lambda point: abs(point[1] - limit))[:2]
    )
    slope = max((high_peak - low_peak) / (high - low), 1.0)
    return int(low + (limit - low_peak) / slope) // unit * unit


def try_changes(scenario: Scenario, footprint: Footprint, say: Say) -> list[Change]:
    """Tries what may make a step fit: of each kind until one does, and if none does all together.

    Args:
        scenario: what does not fit.
        footprint: its own.
        say: told what is compiled.
    """
    limit = memory_limit(scenario.devices)
    assert limit is not None  # else everything fits
    tried = []
    kinds = [_layouts(scenario)]
    if footprint.arguments < limit:
        # Else the weights alone are too large.
        kinds = [_remats(scenario), _accumulations(scenario), *kinds]
    for kind in kinds:
        for change in kind:
            tried.append(_try(scenario, change, say))
            if tried[-1].footprint.fits:
                break
    if not any(change.footprint.fits for change in tried):
        for change in _combinations(scenario):
            tried.append(_try(scenario, change, say))
            if tried[-1].footprint.fits:
                break
    return tried


def _try(scenario: Scenario, change: dict[str, object], say: Say) -> Change:
    options = " ".join(f"--{name} {value}" for name, value in change.items())
    say(options)
    return Change(options, measure_memory(scenario.changed(change))[0])


def _remats(scenario: Scenario) -> Iterator[dict[str, object]]:
    current = resolve_remat(scenario.config, scenario.devices[0].platform)
    for remat in _REMATS[_REMATS.index(current) + 1 :]:
        yield {"train.remat": remat}


def _accumulations(scenario: Scenario) -> Iterator[dict[str, object]]:
    options = scenario.config.train
    rows = options.batch_size // scenario.layout.shards
    accumulation = 2 * options.accumulation
    while accumulation <= rows:
        if rows % accumulation == 0:
            yield {"train.accumulation": accumulation}
        accumulation *= 2


def _layouts(scenario: Scenario) -> Iterator[dict[str, object]]:
    if len(scenario.devices) == 1 or scenario.layout.axis is None:
        return
    change: dict[str, object] = {"parallel.layout": "mesh"}
    try:
        _ = scenario.changed(change).layout
    except UserError:  # axes that the config gives do not go with it
        return
    yield change


def _combinations(scenario: Scenario) -> Iterator[dict[str, object]]:
    layout = next(_layouts(scenario), {})
    full: dict[str, object] = {**layout, "train.remat": "full"}
    if layout:
        yield full
    for accumulation in _accumulations(scenario.changed(layout)):
        yield {**full, **accumulation}
