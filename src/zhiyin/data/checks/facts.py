"""What several checks need to know of a log, computed once, and how their messages write it."""

from __future__ import annotations

import time
from functools import cached_property

import numpy as np

from zhiyin.core.durations import UNITS
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.dataset import Dataset
from zhiyin.data.ids import Ids
from zhiyin.data.splits import _cut

DAY = UNITS["d"]


class Facts:
    """A log and what several checks want to know of it."""

    def __init__(self, data: Dataset, test: str | float | None = None, now: int | None = None) -> None:
        self.data, self.test = data, test
        self.now = int(time.time() * UNITS["s"]) if now is None else now

    @cached_property
    def user(self) -> np.ndarray:
        return self.data.events["user"].to_numpy()

    @cached_property
    def item(self) -> np.ndarray:
        return self.data.events["item"].to_numpy()

    @cached_property
    def time(self) -> np.ndarray:
        return self.data.events["time"].to_numpy()

    @cached_property
    def per_user(self) -> np.ndarray:
        """Events of each user."""
        return np.bincount(self.user, minlength=self.data.n_users)

    @cached_property
    def per_item(self) -> np.ndarray:
        """Events of each item."""
        return np.bincount(self.item, minlength=self.data.n_items)

    @cached_property
    def sorted_times(self) -> np.ndarray:
        """Times of all events in order; empty when the log has none."""
        return np.sort(self.time) if self.data.has_times else np.zeros(0, dtype=np.int64)

    @cached_property
    def whole_days(self) -> bool:
        """Whether every time is a midnight: the log knows days, not moments."""
        times = self.sorted_times
        return len(times) > 1 and times[0] != times[-1] and not (times % DAY).any()

    @cached_property
    def cut(self) -> int | DataError | ConfigError | None:
        """First moment of the test part, or why a split by time is impossible; None without times."""
        if not self.data.has_times:
            return None
        try:
            return _cut(self.data, self.test)
        except (DataError, ConfigError) as error:
            return error


def format_share(part: float, whole: float) -> str:
    share = part / whole if whole else 0.0
    return f"{share:.1%}" if share >= 0.0005 or not part else "under 0.1%"


def format_ids(ids: Ids, codes: np.ndarray, limit: int = 3) -> str:
    """The first few raw ids, for a message."""
    names = ", ".join(repr(raw) for raw in ids.decode(codes[:limit]).to_list())
    return names + (f" and {len(codes) - limit:,} more" if len(codes) > limit else "")


def format_day(us: int) -> str:
    return str(np.datetime64(int(us), "us").astype("datetime64[D]"))
