"""Splits of a log into a training and a test part, and a validation part between them where one is asked for.

All parts keep the codes of the whole log. Items that are in the test part alone are no candidates: a model
cannot know them, and their test events count as misses.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.durations import microseconds, spell
from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.core.params import shortened, whole_number
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.draws import event_draws, time_quantile
from zhiyin.data.evaluable_users import MIN_USERS, balanced_cuts, count_judged, judges_enough_more

# Between the words of a split and those of its validation part.
_VALID = "; of what is left: "
KINDS = ("time", "last", "ratio", "cold-users", "cold-items", "rolling")


@dataclasses.dataclass(frozen=True)
class Split:
    """A pair (train, test), which unpacks as one, with the protocol in words; with a validation part, a triple (train,
    valid, test).

    `warnings`: limits of the figures, in sentences. `fold_in`: the events that a model is given of each user when it
    recommends: the train history, and with it the validation part where there is one; in a cold-users split the first
    half of the history of held-out users. `valid`: what settings and the moment to stop are chosen on; None: none.
    """

    train: Dataset
    test: Dataset
    by: str
    protocol: str
    warnings: tuple[str, ...] = ()
    shown: Dataset | None = None
    valid: Dataset | None = None
    valid_shown: Dataset | None = None

    def __iter__(self) -> Iterator[Dataset]:
        return iter((self.train, self.test) if self.valid is None else (self.train, self.valid, self.test))

    @property
    def fold_in(self) -> Dataset:
        """The events that a model is given of each user when it recommends."""
        return self.shown if self.shown is not None else self.train

    @property
    def validation(self) -> Split:
        """The split (train, valid), to choose by what is judged on `test` later: `zy.evaluate(models, split=...)`.

        Raises ConfigError where there is no validation part.
        """
        if self.valid is None:
            raise ConfigError("the split has no validation part", remedy="zy.split(data, valid=0.1, test=0.2)")
        protocol = self.protocol.rpartition(_VALID)[2]
        return Split(self.train, self.valid, self.by, protocol, self.warnings, self.valid_shown)


def split(
    data: Dataset,
    by: str = "auto",
    *,
    test: str | float | None = None,
    valid: str | float | None = None,
    folds: int = 3,
    run: Run | None = None,
    exclude_seen: bool = True,
) -> Split:
    """Split a log: `train, test = split(data)`, or `train, valid, test = split(data, valid=0.1)`.

    Parameters
    ----------
    by: "time" (the default where there are times): everything after one moment is test. "last": each user's
        last event is test. "ratio": a random share of each user's events. "cold-users": all events of a
        random share of users; the first half of their history is shown, the rest is test. "cold-items": all
        events of a random share of items.
        "auto": "time"; "ratio" where there are no times, or where most of the users a time split would judge have
        no event before it; "time" with an earlier cut where the test part could judge too few users, as in
        `time_split`. `warnings` names the reason.
    test: a duration ("7d") or share (0.2) of the log for "time"; a share for the others. Default: the last
        20 % of events for "time", 0.2 for the others.
    valid: how much is held back to choose settings by and to stop training at, by the same protocol and before the
        test part: a duration or share of the whole log, as `test`. With "last" each user's last but one event,
        whatever the number. None: no validation part.
    exclude_seen: whether "auto" counts as judged only users with an item in the test part that is new to them, as
        `evaluate` does; else also those who repeat.
    """
    if by == "rolling":
        raise ConfigError("a rolling split is several", remedy="use folds(data, k=3, test='7d')")
    if valid is not None:
        outer = split(data, by, test=test, run=run, exclude_seen=exclude_seen)
        return _with_valid(data, outer, valid, 0.2 if not _is_number(test) else float(test), run)  # type: ignore[arg-type]
    if by == "auto":
        return _auto(data, test, run, exclude_seen)
    if by not in KINDS:
        raise ConfigError(f"there is no split {by!r}", remedy=suggest(by, ["auto", *KINDS]))
    return _split_by(data, by, test, (run or Run()).rng(101))


def _split_by(data: Dataset, by: str, test: str | float | None, rng: np.random.Generator) -> Split:
    """The split of one of KINDS but "rolling"."""
    if by == "time":
        _need_times(data, "a split by time")
        return _by_time(data, _cut(data, test))
    if by == "last":
        return _last(data)
    share = _share(test)
    if by == "ratio":
        return _ratio(data, share, rng)
    return _cold_users(data, share, rng) if by == "cold-users" else _cold_items(data, share, rng)


def _with_valid(data: Dataset, outer: Split, valid: str | float, test: float, run: Run | None) -> Split:
    """A split whose training part is cut once more, by the same protocol. test: share of the test part, where it was
    cut by one."""
    part: str | float = valid
    if _is_number(valid) and outer.by != "last":
        left = outer.train.n_events / max(1, data.n_events) if outer.by == "time" else 1 - test
        if not 0 < _share(valid) < left:
            raise ConfigError(
                f"valid = {valid} leaves nothing to learn from: the test part leaves {left:.0%} of the log",
                remedy="a smaller valid or test",
            )
        part = float(valid) / left
    # Draws of their own: by the same ones the same users would be held back again.
    inner = _split_by(outer.train, outer.by, part, (run or Run()).rng(103))
    shown = outer.shown if outer.by == "cold-users" else outer.train
    warnings = tuple(dict.fromkeys((*outer.warnings, *inner.warnings)))
    protocol = outer.protocol + _VALID + inner.protocol.replace("test", "valid")
    return Split(inner.train, outer.test, outer.by, protocol, warnings, shown, inner.test, inner.shown)


def _auto(data: Dataset, test: str | float | None, run: Run | None, exclude_seen: bool) -> Split:
    """By time where most test users are in the train part; else by ratio, with the reason in `warnings`."""
    share = test if _is_number(test) else None
    if not data.has_times:
        return split(data, "ratio", test=share, run=run)
    if data.window[0] == data.window[1]:
        moment = _moment(data.window[0])
        why = f"all events carry one time, {moment}, which no split by time can cut: events are split by ratio"
        chosen = split(data, "ratio", test=share, run=run)
        return dataclasses.replace(chosen, warnings=(why, *chosen.warnings))
    by_time = time_split(data, test, exclude_seen)
    judged = np.unique(by_time.test.events["user"].to_numpy())
    n_known = int((by_time.train.histories.lengths[judged] > 0).sum())
    if 2 * n_known >= len(judged):
        return by_time
    try:
        chosen = split(data, "ratio", test=share, run=run)
    except DataError:  # histories too short to hold a share of each
        return by_time
    why = (
        f"a split by time would judge strangers: {n_known:,} of its {len(judged):,} test users have an event before "
        'it, so events are split by ratio; by = "time" insists'
    )
    return dataclasses.replace(chosen, warnings=(why, *chosen.warnings))


def time_split(data: Dataset, test: str | float | None, exclude_seen: bool) -> Split:
    """A split by time, with an earlier cut where the requested one leaves too few users to evaluate.

    A share of the events is no share of the users: one user who reloads one page may fill it. Where fewer than
    `MIN_USERS` can be judged (of a duration, nobody) and `balanced_cuts` makes it many more (`judges_enough_more`),
    that is the cut, and `warnings` names it.

    Parameters
    ----------
    test: as `split` takes it for "time".
    exclude_seen: whether a user is judged only by items that are new to them.
    """
    _need_times(data, "a split by time")
    chosen, count, error = None, 0, None
    try:
        chosen = _by_time(data, _cut(data, test))
    except DataError as raised:  # a crowd of events at the first moment
        if test is not None:
            raise
        error = raised
    if chosen is not None:
        count = count_judged(chosen.train, chosen.test, exclude_seen)
        if count >= (1 if isinstance(test, str) else MIN_USERS):
            return chosen
    earlier = _balanced(data, None if isinstance(test, str) else test)
    many = count_judged(earlier.train, earlier.test, exclude_seen) if earlier is not None else 0
    if earlier is not None and judges_enough_more(count, many):
        what = f"the last {test}" if isinstance(test, str) else f"the last {_share(test):.0%} of the events"
        why = (
            f"{what} could judge {count:,} users only: few users fill it or what they did there is not new to "
            f"them: the test part begins earlier, so that {many:,} can be judged"
        )
        return dataclasses.replace(earlier, warnings=(why, *earlier.warnings))
    if chosen is None:
        assert error is not None
        raise error
    return chosen


def _balanced(data: Dataset, share: float | None) -> Split | None:
    """The split by time at the moment of `balanced_cuts`; None where nothing would be left before it."""
    cuts = balanced_cuts(data, [1 - _share(share)])
    return _by_time(data, cuts[0]) if cuts and cuts[0] > data.window[0] else None


def folds(data: Dataset, k: int = 3, test: str = "7d") -> list[Split]:
    """k rolling folds: the last k windows of length `test`, each judged by a model of the time before."""
    _need_times(data, "rolling folds")
    k = whole_number(k, "k")
    width, (first, last) = microseconds(test), data.window
    if last - k * width <= first:
        raise DataError(
            f"{k} windows of {test} do not fit into a log of {spell(last - first)}",
            remedy="fewer or shorter windows",
        )
    cuts = [last + 1 - width * back for back in range(k, 0, -1)]
    return [_by_time(data, cut, until=cut + width) for cut in cuts]


def rolling(data: Dataset, edges: Sequence[float], run: Run | None = None, *, balanced: bool = False) -> list[Split]:
    """Windows one after another between shares of the events, each judged by a model of all that comes before it.

    With times, an edge is the moment before which that share of the events lies; events of one moment stay together.
    Without, or where all events carry one time, each user's events are put into a random order of their own, the first
    of them before every edge, and the windows are cut out of that: no event is in two windows, and none of a window is
    before it.

    Parameters
    ----------
    edges: ascending, from 0 to 1: (0.6, 0.8, 1) are two windows of a fifth of the events each. A window without events,
        or without any before it, is left out.
    balanced: with times, edges are shares of what users newly took, where every user weighs the same, and not of the
        events: `balanced_cuts`.
    """
    if len(edges) < 2 or list(edges) != sorted(edges) or not 0 <= edges[0] <= edges[-1] <= 1:
        raise ConfigError(f"edges = {edges!r} are no windows", remedy="ascending shares of the events: (0.6, 0.8, 1)")
    cuts: list[Any]
    timed = data.window[0] < data.window[1]
    if timed and balanced:
        rank, cuts = data.events["time"].to_numpy(), balanced_cuts(data, edges)
    elif timed:
        rank = data.events["time"].to_numpy()
        cuts = [int(np.quantile(rank, edge, method="higher")) if edge < 1 else int(rank.max()) + 1 for edge in edges]
    else:
        rank, cuts = _window_starts(data, (run or Run()).rng(102)), list(edges)
    splits = []
    for start, end in itertools.pairwise(cuts):
        before, inside = rank < start, (rank >= start) & (rank < end)
        if not before.any() or not inside.any():
            continue
        train, test = _train_part(data, before), data.subset(inside)
        protocol = f"a random {inside.mean():.1%} of the events is test, train a random {before.mean():.1%}"
        if timed:
            protocol = f"train before {_moment(start)}, test from then until {_moment(end)}"
        splits.append(Split(train, test, "time" if timed else "ratio", protocol, _small(train, test)))
    return splits


def _window_starts(data: Dataset, rng: np.random.Generator) -> np.ndarray:
    """float64[n_events]: the position of each event in a random order of its user's events, evenly from 0 to 1, the
    first at 0.

    The order is moved by a random part of a step for each user, so that a share of few events is rounded up as often as
    is fair.
    """
    user = data.events["user"].to_numpy()
    lengths = np.bincount(user, minlength=data.n_users)
    order = np.lexsort((rng.random(len(user)), user))
    rank = np.empty(len(user), dtype=np.int64)
    rank[order] = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.where(rank == 0, 0.0, (rank + rng.random(data.n_users)[user]) / lengths[user])


def _need_times(data: Dataset, what: str) -> None:
    if not data.has_times:
        raise DataError(f"{what} needs times, and the log has none", remedy='name a time column, or split by "ratio"')


def _share(test: str | float | None) -> float:
    share = 0.2 if test is None else test
    if not _is_number(share) or not 0 < share < 1:  # type: ignore[operator]
        raise ConfigError(
            f"test = {shortened(test)} is no share of the log",
            remedy='a number between 0 and 1, such as 0.2; in a split by time also a duration, such as "7d"',
        )
    return float(share)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _cut(data: Dataset, test: str | float | None) -> int:
    """The first moment of the test part."""
    first, last = data.window
    cut = last + 1 - microseconds(test) if isinstance(test, str) else time_quantile(data, 1 - _share(test))
    if first == last:
        raise DataError(
            f"all events carry one time, {_moment(first)}: nothing can be split by time",
            remedy='find the events\' own times, or split by ratio: by = "ratio" under [split]',
        )
    if not first < cut <= last:
        raise DataError(
            f"nothing is left to learn: the log spans {spell(last - first)}, the test part {test or 'all'}",
            remedy="a shorter test window",
        )
    return cut


def _by_time(data: Dataset, cut: int, until: int | None = None) -> Split:
    time = data.events["time"].to_numpy()
    later = time >= cut
    train = _train_part(data, ~later)
    test = data.subset(later if until is None else later & (time < until))
    end = min(until or data.window[1] + 1, data.window[1] + 1)
    protocol = f"global time: train before {_moment(cut)}, test the {spell(end - cut)} from then"
    return Split(train, test, "time", protocol, _small(train, test))


def _last(data: Dataset) -> Split:
    user = data.events["user"].to_numpy()
    last = np.append(user[1:] != user[:-1], True)[: len(user)]  # of several processes one may hold no event
    lengths = np.bincount(user, minlength=data.n_users)
    last &= lengths[user] > 1
    train, test = _train_part(data, ~last), data.subset(last)
    warnings = ["leave-last-out leaks across users: models learn from events later than the ones they predict"]
    if not data.has_times:
        warnings.append("the log has no times: the order of its rows stands for them")
    return Split(train, test, "last", "each user's last event is test", (*warnings, *_small(train, test)))


def _ratio(data: Dataset, share: float, rng: np.random.Generator) -> Split:
    """A random share of each user's events, rounded down, so that no user loses all."""
    user = data.events["user"].to_numpy()
    lengths = np.bincount(user, minlength=data.n_users)
    order = np.lexsort((event_draws(data, rng), user))
    start = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    rank = np.empty(len(user), dtype=np.int64)
    rank[order] = np.arange(len(user)) - start[user]
    held = rank < np.floor(lengths * share)[user]
    train, test = _train_part(data, ~held), data.subset(held)
    protocol = f"a random {share:.0%} of each user's events is test"
    warnings = ("a random split lets models learn from the future",) if data.has_times else ()
    return Split(train, test, "ratio", protocol, (*warnings, *_small(train, test)))


def _cold_users(data: Dataset, share: float, rng: np.random.Generator) -> Split:
    user = data.events["user"].to_numpy()
    cold = np.zeros(data.n_users, dtype=bool)
    cold[rng.permutation(data.n_users)[: max(1, round(share * data.n_users))]] = True
    lengths = np.bincount(user, minlength=data.n_users)
    position = np.arange(len(user)) - np.concatenate([[0], np.cumsum(lengths)])[:-1][user]
    shown = cold[user] & (position < lengths[user] // 2)
    train = _train_part(data, ~cold[user])
    test = data.subset(cold[user] & ~shown)
    n_unknown = int(data.group.sum(np.array([(cold & (lengths > 0)).sum()]))[0])
    protocol = (
        f"{n_unknown:,} users are unknown to the model; the first half of each history is shown, the rest is test"
    )
    seen = data.subset(shown, candidates=train.candidates)
    return Split(train, test, "cold-users", protocol, _small(train, test), shown=seen)


def _cold_items(data: Dataset, share: float, rng: np.random.Generator) -> Split:
    item = data.events["item"].to_numpy()
    cold = np.zeros(data.n_items, dtype=bool)
    cold[rng.permutation(data.n_items)[: max(1, round(share * data.n_items))]] = True
    # The catalogue knows the cold items, so they stay candidates: that is what is judged.
    train, test = data.subset(~cold[item]), data.subset(cold[item])
    with_events = cold & (data.item_counts() > 0)
    protocol = f"{int(with_events.sum()):,} items have no event in train; only they are test"
    warnings = ("models that know items by their events alone cannot recommend cold items",)
    return Split(train, test, "cold-items", protocol, (*warnings, *_small(train, test)))


def _train_part(data: Dataset, in_train: np.ndarray) -> Dataset:
    """Train part: its candidates are the items of the catalogue and those with an event in it."""
    candidates = data.item_counts(in_train) > 0
    described = data.items.drop("id")
    if described.width:  # an item with a description was in the catalogue; one without came with its first event
        candidates |= ~described.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy()
    return data.subset(in_train, candidates=candidates & data.candidates)


def _small(train: Dataset, test: Dataset) -> tuple[str, ...]:
    # The users of one process are no other's.
    sizes = np.array([train.n_events, test.n_events, test.events["user"].n_unique()], dtype=np.int64)
    n_train, n_test, users = train.group.sum(sizes).tolist()
    if not n_train or not n_test:
        raise DataError("one side of the split is empty", remedy="another split, window or share")
    return (f"only {users} users to judge by: intervals will be wide",) if users < 100 else ()


def _moment(us: int) -> str:
    return pl.Series([us]).cast(pl.Datetime("us")).dt.strftime("%Y-%m-%d %H:%M")[0] + " UTC"
