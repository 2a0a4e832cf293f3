"""The plan of a fit within a time: which sources are still in it, and which of them are dropped.

The order in which a pipeline is made smaller where time is short:

1. trials of tuning: they get what the rest leaves;
2. windows: the oldest are left out, until one to learn from and one to choose by are left;
3. sources: the most expensive first, of equal ones the last; popularity never;
4. the ranker: it learns from fewer requests, and is left out where that would be too few.

After each fit the plan is made again from what was measured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from zhiyin.core.errors import ZhiyinError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline.fit_costs import Afterwards, Measured, is_popularity, most_expensive
from zhiyin.pipeline.time_budget import OutOfTime, TimeBudget, spelled

# Shares of the budget and of what is left of it, the smaller of which is kept for joining the sources: blends, the
# ranker and the choice.
JOINING_SHARE, JOINING_SHARE_OF_REST = 0.2, 0.3
# Requests of a window for each second of the budget, and the fewest: more tell little more, and take time.
REQUESTS_PER_SECOND, MIN_REQUESTS = 33, 300


class FittingPlan:
    """Sources that are fitted within what is left of a budget.

    Parameters
    ----------
    sources: by name, unfitted; those that are dropped are taken out.
    n_events: of the log that the pipeline learns from in the end.
    after: what comes after the pipeline.
    """

    def __init__(
        self,
        sources: Mapping[str, Recommender],
        n_events: int,
        budget: TimeBudget | None = None,
        after: Afterwards | None = None,
    ) -> None:
        self.sources, self.n_events = dict(sources), n_events
        self.budget, self.after = budget or TimeBudget(), after or Afterwards()
        self.costs = self.budget.costs
        self.dropped: dict[str, str] = {}
        self.fit_seconds: dict[str, float] = {}  # of the fits on the whole log

    # -- what is needed, and what is left ----------------------------------------------------------------------------

    def finish(self, name: str) -> float:
        """Seconds that a source takes after the windows."""
        own = 0.0 if name in self.fit_seconds else self.costs.fit(name, self.n_events)
        return own + self.after.of_source(self.costs, name)

    @property
    def afterwards(self) -> float:
        """Seconds of all that comes after the windows, joining apart."""
        classes = {name: type(model).__name__ for name, model in self.sources.items()}
        rest = self.after.of_rivals(self.costs, classes) + self.after.seconds
        return sum(map(self.finish, self.sources)) + rest

    @property
    def joining(self) -> float:
        """Seconds that are kept for joining the sources."""
        return joining_seconds(self.budget)

    @property
    def room(self) -> float:
        """Seconds that are left beside what comes after the windows."""
        return self.budget.left - self.afterwards

    @property
    def max_requests(self) -> int | None:
        """Requests of a window that are used; None where time does not tell."""
        return max(MIN_REQUESTS, int(REQUESTS_PER_SECOND * self.budget.seconds)) if self.budget.bounded else None

    # -- dropping ----------------------------------------------------------------------------------------------------

    def make_room(self, needed: Callable[[str], float] = lambda name: 0.0, apart: float = 0.0) -> list[str]:
        """Drop sources, the most expensive first, until what is needed fits into what is left; returns which.

        Parameters
        ----------
        needed: seconds that a source takes before what comes after the windows.
        apart: seconds that are needed whatever the sources are.
        """
        gone: list[str] = []
        if not self.budget.bounded:
            return gone
        while apart + sum(map(needed, self.sources)) > self.room:
            seconds = {name: needed(name) + self.finish(name) for name in self.sources}
            name = most_expensive(self.costs, self.sources, seconds)
            if name is None or len(self.sources) == 1:
                break
            left = max(0.0, self.budget.left)
            self.drop(name, f"its fits would take {spelled(seconds[name])} of the {spelled(left)} left")
            gone.append(name)
        return gone

    def drop(self, name: str, why: str) -> None:
        """Leave a source out, and say why."""
        del self.sources[name]
        self.dropped[name] = why
        self.budget.decide(f"{name} is left out: {why}")

    # -- fitting -----------------------------------------------------------------------------------------------------

    def fit(self, name: str, data: Dataset, run: Run, apart: float = 0.0) -> Recommender | None:
        """A fitted copy of a source; None where it is dropped, for it takes longer than there is time or cannot learn.

        apart: seconds that others still need before what comes after the windows.
        """
        limit = float("inf")
        if self.budget.bounded and not is_popularity(name):
            others = self.afterwards - self.finish(name) if name in self.sources else self.afterwards
            limit = max(self.budget.left - others - apart, 2 * self.costs.fit(name, data.n_events))
        self.budget.work_on(name)
        model, error = copy.deepcopy(self.sources[name]), None
        with self.budget.timed() as timer:
            try:
                model.fit(data, self.budget.limited(run, limit))
            except OutOfTime:
                error = f"its fit was not done after {spelled(limit)}"
            except ZhiyinError as raised:
                if not self.budget.bounded or is_popularity(name):
                    raise
                error = str(raised)
        if name not in self.costs.measured:
            self.costs.measure(name, Measured(timer.seconds, data.n_events))
        else:
            self.costs.correct(name, data.n_events, timer.seconds)
        if error is not None:
            self.drop(name, error)
            return None
        if data.n_events >= self.n_events:
            self.fit_seconds[name] = round(timer.seconds, 3)
        return model


def joining_seconds(budget: TimeBudget) -> float:
    """Seconds that are kept for joining the sources."""
    if not budget.bounded:
        return 0.0
    return min(JOINING_SHARE * budget.seconds, JOINING_SHARE_OF_REST * max(0.0, budget.left))


def newest_first(learn: int, choose: int) -> list[tuple[str, int]]:
    """The order in which windows are fitted: the newest of each purpose in turn, those to choose by first.

    >>> newest_first(3, 1)
    [('choose', 0), ('learn', 2), ('learn', 1), ('learn', 0)]
    """
    order: list[tuple[str, int]] = []
    for back in range(max(learn, choose)):
        order += [(purpose, n - 1 - back) for purpose, n in (("choose", choose), ("learn", learn)) if back < n]
    return order
