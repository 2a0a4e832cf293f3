"""Time windows of the log for tuning, learning, choice and gate: no event serves two purposes.

    tune         | learn          | choose         | gate
    first events | window, window | window, window | last events
                 each window evaluates sources that learned from everything before it

Hyperparameters are searched on the first part alone, blends and the ranker learn from the windows after it, the method
of each segment of users is chosen on the windows after those, and `zhiyin train` judges what came out on the last part,
which nothing before has seen. `rolling` makes the windows: a log without times is cut by a random order of each user's
events instead, which keeps the parts disjoint and no more.

`LEARN_SHARE` of the windows are to learn from. A short log has fewer windows:

0. where few users fill them, they begin where shares of what users newly took lie, each user weighing the same;
1. as many as leave `MIN_FIRST_SHARE` of the events to the first part;
2. without those in which no user can be evaluated;
3. where one purpose has no window then, the windows of the other are divided between both;
4. with one window alone, nothing is tried that learns; with none, sources are joined by reciprocal ranks.

The report says which.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.evaluable_users import MIN_USERS, judges_enough_more
from zhiyin.data.splits import Split, rolling, split, time_split
from zhiyin.evaluation.model_evaluation import Window

# Share of the events that is left before the first window.
MIN_FIRST_SHARE = 0.4
# Share of the windows that blends and the ranker learn from: what they learn hangs more on it than the choice does.
LEARN_SHARE = 0.6

HeldOut = tuple[Split, Window]


@dataclasses.dataclass(frozen=True)
class WindowPlan:
    """The parts of a log that a pipeline is chosen on.

    Parameters
    ----------
    tune: what lies before all windows.
    learn, choose: windows, oldest first; the first of `choose` begins where the last of `learn` ends.
    notes: how a short log was cut otherwise than asked, in sentences.
    """

    tune: Dataset
    learn: tuple[HeldOut, ...]
    choose: tuple[HeldOut, ...]
    notes: tuple[str, ...] = ()

    def to_rows(self) -> list[dict[str, Any]]:
        """A row for each part: `part`, `events`, `users` evaluated, `start`, `end` (null without times)."""
        rows = [_row("tune", self.tune, None)]
        for name, windows in (("learn", self.learn), ("choose", self.choose)):
            rows += [_row(name, part.test, len(window)) for part, window in windows]
        return rows


def plan_windows(data: Dataset, count: int, share: float, exclude_seen: bool, run: Run) -> WindowPlan:
    """Cut a log, without the events of the gate, into a first part and up to `count` windows of `share` of the events.

    See the module for what becomes of a short log.
    """
    notes = []
    most = max(1, int((1 - MIN_FIRST_SHARE) / share + 1e-9))
    if count > most:
        notes.append(
            f"{most} windows of {share:.0%} of the events, not {count}: {MIN_FIRST_SHARE:.0%} must be left before them"
        )
    number = min(count, most)
    edges = [1 - share * back for back in range(number, -1, -1)]
    learn, choose = _windows(data, edges, exclude_seen, run, balanced=False)
    users = _usual_users(learn, choose, number)
    if data.n_events and data.window[0] < data.window[1] and users < MIN_USERS:
        by_user = _windows(data, edges, exclude_seen, run, balanced=True)
        usual = _usual_users(*by_user, number)
        if judges_enough_more(users, usual):
            learn, choose = by_user
            notes.append(
                f"windows of {share:.0%} of the events would mostly judge {users:,.0f} users, for few users fill them; "
                f"they are of {share:.0%} of what each user took instead, and judge {usual:,.0f}"
            )
    if len(learn) + len(choose) < number:
        notes.append(f"of {number} windows {len(learn) + len(choose)} can be judged by")
    if not learn or not choose:
        both = [*learn, *choose]
        learn, choose = both[: _n_learn_windows(len(both))], both[_n_learn_windows(len(both)) :]
    if len(choose) == 1 and not learn:
        notes.append("one window is too few to learn and to choose by: nothing that learns from windows is tried")
    first = next(iter([*learn, *choose]), None)
    return WindowPlan(data if first is None else first[0].train, tuple(learn), tuple(choose), tuple(notes))


def _windows(
    data: Dataset, edges: list[float], exclude_seen: bool, run: Run, *, balanced: bool
) -> tuple[list[HeldOut], list[HeldOut]]:
    """The windows to learn from and those to choose by, without those in which no user can be evaluated."""
    purposes: tuple[list[HeldOut], list[HeldOut]] = [], []
    parts = rolling(data, edges, run, balanced=balanced) if data.n_events else []
    for place, part in enumerate(parts):
        with contextlib.suppress(DataError):  # no user can be evaluated
            purposes[place >= _n_learn_windows(len(parts))].append((part, Window.of(part, exclude_seen)))
    return purposes


def _usual_users(learn: list[HeldOut], choose: list[HeldOut], number: int) -> float:
    """The median of the users evaluated in a window; windows that are missing of `number` count 0."""
    users = [len(window) for _, window in (*learn, *choose)]
    return float(np.median(users + [0] * (number - len(users))))


def _n_learn_windows(windows: int) -> int:
    """How many of the windows are to learn from; where there are two, each purpose has one."""
    return min(round(LEARN_SHARE * windows), windows - 1) if windows > 1 else 0


def gate_split(data: Dataset, test: str | float | None, run: Run, exclude_seen: bool = True) -> Split:
    """The last part: the events that the gate evaluates on, and before it what everything else may see.

    `warnings` says where the part begins earlier than asked, because too few users could be evaluated.
    """
    if data.window[0] < data.window[1]:
        return time_split(data, test, exclude_seen)
    # Without times, or with one for all, a share of each user's events; a duration means nothing there.
    return split(data, "ratio", test=None if isinstance(test, str) else test, run=run)


def _row(part: str, data: Dataset, n_users: int | None) -> dict[str, Any]:
    moments = [None, None]
    if data.has_times and data.n_events:
        moments = pl.Series(np.array(data.window)).cast(pl.Datetime("us")).dt.strftime("%Y-%m-%d %H:%M").to_list()
    return {"part": part, "events": data.n_events, "users": n_users, "start": moments[0], "end": moments[1]}
