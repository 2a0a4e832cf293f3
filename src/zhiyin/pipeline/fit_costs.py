"""What fits and lists of sources cost, estimated from what was measured, and corrected while the work goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

# Weight of the newest measurement in the pace of the machine.
NEWEST = 0.5
# One fit tells no more of the pace than this ratio, and nothing where it is of far more or fewer events than before.
MAX_RATIO = 3.0
# Fits that are shorter say nothing of the pace: what is measured of them is noise.
MIN_PACE_SECONDS = 0.05


@dataclasses.dataclass
class Measured:
    """A fit that was measured.

    Parameters
    ----------
    seconds: of the fit.
    events: that it learned from.
    grows: whether a fit on more events takes longer in proportion; else it takes as long on any number.
    per_request: seconds of a list.
    """

    seconds: float
    events: int
    grows: bool = True
    per_request: float = 0.0


class FitCosts:
    """Seconds that sources will take, by name.

    The pace is how much longer fits take than when each was first measured: it rises when the machine becomes busy,
    for all sources at once.
    """

    def __init__(self) -> None:
        self.measured: dict[str, Measured] = {}
        self.pace = 1.0

    def measure(self, source: str, measured: Measured) -> None:
        """Note the first measurement of a source, or a better one, as it is on the machine now."""
        measured.seconds /= self.pace
        measured.per_request /= self.pace
        self.measured[source] = measured

    def correct(self, source: str, events: int, seconds: float) -> None:
        """A fit has taken this long: correct the pace by it, and what is known of the source."""
        expected, known = self.fit(source, events), self.measured[source]
        like = not known.grows or known.events / 3 <= events <= 3 * known.events
        if like and expected > 0 and max(expected, seconds) > MIN_PACE_SECONDS:
            ratio = min(max(seconds / expected, 1 / MAX_RATIO), MAX_RATIO)
            self.pace *= (1 - NEWEST) + NEWEST * ratio
        self.measured[source] = dataclasses.replace(known, seconds=seconds / self.pace, events=events)

    def fit(self, source: str, events: int) -> float:
        """Seconds of a fit on so many events; 0 for a source that was never measured."""
        known = self.measured.get(source)
        if known is None:
            return 0.0
        growth = events / max(1, known.events) if known.grows else 1.0
        return self.pace * known.seconds * growth

    def lists(self, source: str, requests: int) -> float:
        """Seconds of so many lists of candidates."""
        known = self.measured.get(source)
        return 0.0 if known is None else self.pace * known.per_request * requests

    def window(self, source: str, events: int, requests: int) -> float:
        """Seconds of a fit, and of lists for the requests of a window."""
        return self.fit(source, events) + self.lists(source, requests)


@dataclasses.dataclass(frozen=True)
class Afterwards:
    """What comes after the pipeline was fitted, for which time is kept.

    Parameters
    ----------
    fits: number of events of each fit of all sources that is still to come.
    requests: requests that the gate judges by.
    rivals: sources of the version in use, by class name, and `rival_fits` the events of each fit of them.
    seconds: of all else, such as saving.
    """

    fits: tuple[int, ...] = ()
    requests: int = 0
    rivals: tuple[str, ...] = ()
    rival_fits: tuple[int, ...] = ()
    seconds: float = 0.0

    def of_source(self, costs: FitCosts, source: str) -> float:
        """Seconds that one source will take afterwards."""
        return sum(costs.fit(source, events) for events in self.fits) + costs.lists(source, self.requests)

    def of_rivals(self, costs: FitCosts, names: Mapping[str, str]) -> float:
        """Seconds that the version in use will take. names: class name of each measured source."""
        by_class: dict[str, str] = {name: source for source, name in names.items()}
        total = 0.0
        for events in self.rival_fits:
            slowest = max((costs.fit(source, events) for source in names), default=0.0)
            for name in self.rivals:
                # Of a source that this training does not try, nothing is known: as the slowest one.
                total += costs.fit(by_class[name], events) if name in by_class else slowest
        return total


def most_expensive(costs: FitCosts, sources: Iterable[str], seconds: Mapping[str, float]) -> str | None:
    """The source that is dropped first: the one of the highest cost, of equal ones the last; popularity never."""
    candidates = [name for name in sources if not is_popularity(name)]
    return max(candidates, key=lambda name: (seconds[name], candidates.index(name)), default=None)


def is_popularity(source: str) -> bool:
    """Whether a source is the popularity of items, over whatever time."""
    return source.partition(":")[0].strip().lower() == "popular"
