"""AsOf: point-in-time features of users, items and user-item pairs, from events strictly before the request.

Item features count the events of the item before the moment of the request; user features count the history of the
request, which may hold events that the index does not have yet. The features of a request do not depend on events after
it, so that training and serving see the same features.

In a log without times only the order of each user's events is known, not the order between users: item features then
count the events of all other users, and there are no features of windows, ages and clocks.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.durations import UNITS, microseconds
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.ranking import asof_kernels as kernels
from zhiyin.ranking.examples import Candidates
from zhiyin.ranking.feature_writing import NO_LAYOUT, write_all_features
from zhiyin.ranking.item_event_log import MAX_COUNTED_KINDS, ItemLog

WINDOWS = ("1d", "7d", "30d")


@dataclasses.dataclass
class AsOf:
    """An index of a log for point-in-time features.

    Parameters
    ----------
    log: events of the training data, by item.
    recent: events appended since.
    has_times: whether the log has times.
    kinds: names of the event kinds by code.
    counted: names of the kinds that have features of their own. An index made `like` another has those of the other,
        which its own log may not have.
    windows: durations, ascending, over which events are counted.
    latest: the last known moment, microseconds UTC; a request without a moment (`now` 0) comes just after it.
    categories: by name, CSR [n_items, c], the categories of items; stored entries other than 0 count.
    prices: float32[n_items], NaN where unknown; or None.
    neighbors: by name, CSR float32[n_items, n_items]: row i has the weights of item i for the score of others. To be
        learned on events before the requests; otherwise labels leak into the features.
    content: CSR float32[n_items, v], content vectors of length 1; or None.
    last: number of newest events of the history that the features of neighbours, content and recent categories use.
    session_gap: microseconds without an event that end a session.
    rates: whether there are features of the user's rate of positive events by category.

    Attributes
    ----------
    names: names of the features.
    table: for kernels, see `asof_kernels`; it has nothing of `recent`, so that branches share it.
    n_sums: floats of working memory that the kernels need.
    """

    log: ItemLog
    recent: ItemLog
    has_times: bool
    kinds: tuple[str, ...]
    counted: tuple[str, ...]
    windows: tuple[str, ...]
    latest: int
    own: tuple[np.ndarray, ...] = ()
    categories: dict[str, sparse.csr_matrix] = dataclasses.field(default_factory=dict)
    prices: np.ndarray | None = None
    neighbors: dict[str, sparse.csr_matrix] = dataclasses.field(default_factory=dict)
    content: sparse.csr_matrix | None = None
    last: int = 20
    session_gap: int = 30 * UNITS["m"]
    rates: bool = False

    @classmethod
    def learn(
        cls,
        data: Dataset,
        *,
        windows: Sequence[str] = WINDOWS,
        categories: Mapping[str, sparse.csr_matrix] | None = None,
        prices: np.ndarray | None = None,
        neighbors: Mapping[str, sparse.csr_matrix] | None = None,
        content: sparse.csr_matrix | None = None,
        last: int = 20,
        session_gap: str = "30m",
        rates: bool = False,
        like: AsOf | None = None,
    ) -> AsOf:
        """Index a log.

        The log decides which features there are: counts by kind where it has several kinds, positive shares where it
        has events without a positive weight, mean values where it has values, and windows where it has times.

        Parameters
        ----------
        like: an index of the same log up to another moment, whose features this one is to have.

        Raises ConfigError for windows that are no durations or do not ascend, and for arrays not of n_items rows.
        """
        lengths = [microseconds(window) for window in windows]
        if lengths != sorted(set(lengths)):
            raise ConfigError(f"windows {', '.join(windows)} do not ascend", remedy="such as 1d, 7d, 30d")
        blocks = {**(categories or {}), **(neighbors or {})} | ({"content": content} if content is not None else {})
        for name, rows in [*blocks.items(), *([("prices", prices)] if prices is not None else [])]:
            if rows.shape[0] != data.n_items:
                raise ConfigError(f"{name} has {rows.shape[0]:,} rows", remedy=f"a row an item: {data.n_items:,}")
        item, time, weight, value, kind = _columns(data.events)
        if like is not None:
            counted, signs, values = like.counted, like.log.signs, like.log.values
        else:
            counted, signs, values = (
                _counted(kind, data.kinds),
                bool((weight <= 0).any()),
                bool((value == value).any()),
            )
        totals: dict[str, Any] = {"signs": signs, "values": values, "n_kinds": len(counted)}
        slot = _slots(kind, counted, data.kinds)
        log = ItemLog.of(item, time, weight, value, slot, data.n_items, **totals)
        own: tuple[np.ndarray, ...] = ()
        if not data.has_times:
            own = (data.histories.offsets, item, weight, value, slot)
        return cls(
            log,
            ItemLog.empty(data.n_items, **totals),
            data.has_times,
            tuple(data.kinds),
            counted,
            tuple(windows) if data.has_times else (),
            data.window[1],
            own,
            {name: sparse.csr_matrix(rows) for name, rows in (categories or {}).items()},
            None if prices is None else np.asarray(prices, dtype=np.float32),
            {name: sparse.csr_matrix(rows, dtype=np.float32) for name, rows in (neighbors or {}).items()},
            None if content is None else sparse.csr_matrix(content, dtype=np.float32),
            last,
            microseconds(session_gap),
            rates if like is None else like.rates,
        )

    def __post_init__(self) -> None:
        self.names = tuple(self._names())
        self.table, self.n_sums = self._table()

    def _table(self) -> tuple[ArrayTable, int]:
        """What was learned but for the events of `log`, at the slots of `asof_kernels`; and the number of floats that
        its kernels need as working memory."""
        matrices = [self.content, *self.categories.values(), *self.neighbors.values()]
        table = ArrayTable(kernels.FIRST_MATRIX + kernels.MATRIX_SLOTS * len(matrices))
        for slot, value in (
            (kernels.TIMED, self.has_times),
            (kernels.SIGNS, self.log.signs),
            (kernels.VALUES, self.log.values),
            (kernels.LAST, self.last),
            (kernels.SESSION_GAP, self.session_gap),
            (kernels.N_KINDS, len(self.counted)),
            (kernels.PRICED, self.prices is not None),
            (kernels.DESCRIBED, self.content is not None),
            (kernels.N_CATEGORIES, len(self.categories)),
            (kernels.N_NEIGHBORS, len(self.neighbors)),
            (kernels.RATES, self.rates),
        ):
            table.put_int(slot, value)
        table.put(kernels.SPANS, np.array([microseconds(window) for window in self.windows], dtype=np.int64), np.int64)
        for slot, part, dtype in zip(_OWN_SLOTS, self.own, _OWN_TYPES):
            table.put(slot, part, dtype)
        if self.prices is not None:
            table.put(kernels.LOG_PRICES, _logs(self.prices), np.float32)
        for number, rows in enumerate(matrices):
            if rows is not None:
                slot = kernels.FIRST_MATRIX + kernels.MATRIX_SLOTS * number
                table.put(slot + kernels.INDPTR, rows.indptr, np.int64)
                table.put(slot + kernels.INDICES, rows.indices, np.int32)
                table.put(slot + kernels.DATA, rows.data, np.float32)
                table.put_int(slot + kernels.WIDTH, rows.shape[1])
        widths = [2 * rows.shape[1] for rows in self.categories.values()]
        return table, max([*widths, 0 if self.content is None else self.content.shape[1]])

    # -- names ------------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        """Feature names, in the order of the columns."""
        spans = [f" {window}" for window in self.windows] + [""]
        item = [f"item events{span}" for span in spans]
        item += [f"item {name}{span}" for name in self.counted for span in spans]
        if self.log.signs:
            item.append("item positive share")
        if self.log.values:
            item.append("item mean value")
        user = ["user events"]
        if self.log.signs:
            user.append("user positive share")
        if self.log.values:
            user.append("user mean value")
        pair = ["pair events"]
        if self.has_times:
            item += ["item age days", "item idle days"] + (["item trend"] if len(self.windows) > 1 else [])
            user += [f"user events{span}" for span in spans[:-1]]
            user += ["user idle hours", "session events", "hour", "weekday"]
            pair.append("pair idle hours")
        names = [*item, *user, *pair]
        for name in self.categories:
            names += [f"{name} share", f"{name} share recent"] + [f"{name} rate"] * self.rates
        if self.prices is not None:
            names.append("price ratio")
        for name in self.neighbors:
            names += [f"{name} max", f"{name} sum", f"{name} last"]
        if self.content is not None:
            names.append("content similarity")
        return names

    @property
    def n_items(self) -> int:
        """Number of items with a place in the index."""
        return max(self.log.n_items, self.recent.n_items)

    # -- features ---------------------------------------------------------------------------------------------------

    def moments(self, histories: Histories) -> np.ndarray:
        """int64[n]: the moments of requests, microseconds UTC."""
        return np.where(histories.now == 0, self.latest + 1, histories.now).astype(np.int64)

    def numbers(
        self, histories: Histories, candidates: Candidates, run: Run | None = None, moments: np.ndarray | None = None
    ) -> np.ndarray:
        """Features of each candidate as of its request, float32[m, len(names)]; NaN where unknown.

        Parameters
        ----------
        histories: the events of the n users. Events at or after the moment are ignored; a history whose times are all
            0 has no times and counts whole.
        moments: int64[n], microseconds UTC; None for `moments(histories)`.

        Counts are log(1 + count); days, hours log(1 + days), log(1 + hours); "trend" is the log of the events of the
        shorter of the two longest windows over its share of the longest; "price ratio" the log of the price over the
        geometric mean of the prices in the history. Hours of the day and weekdays (Monday 0) are UTC.
        """
        moments = self.moments(histories) if moments is None else moments
        n, m = len(histories), len(candidates.items)
        out, codes = np.empty((len(self.names), m), dtype=np.float32), np.zeros((n, 0), dtype=np.int32)
        alone = dataclasses.replace(candidates, sources=(), scores=np.zeros((m, 0), np.float32),
                                    ranks=np.zeros((m, 0), np.int32))  # fmt: skip
        words = NO_LAYOUT.words, *self.words
        write_all_features(words, histories, moments, alone, codes.astype(np.float32), codes, run or Run(), self.n_sums,
                           out, codes[:0])  # fmt: skip
        return out.T

    @property
    def words(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What kernels read: `table`, and those of both logs as they are now."""
        return self.table.words, self.log.table.words, self.recent.table.words

    # -- new events -------------------------------------------------------------------------------------------------

    def branch(self) -> AsOf:
        """A copy with recent events of its own; the learned state is shared."""
        index = copy.copy(self)
        index.recent = self.recent.copy()
        return index

    def with_events(self, events: pl.DataFrame) -> AsOf:
        """A copy whose recent events are these, as `append` takes them, built by one sort."""
        if not self.has_times:
            raise DataError(_NO_TIMES, remedy="learn again from all")
        index = copy.copy(self)
        item, time, weight, value, slot = self._coded(events)
        n = max(self.log.n_items, int(item.max(initial=-1)) + 1)
        totals: dict[str, Any] = {"signs": self.log.signs, "values": self.log.values, "n_kinds": len(self.counted)}
        index.recent = ItemLog.of(item, time, weight, value, slot, n, **totals)
        index.latest = max(self.latest, int(time.max(initial=self.latest)))
        return index

    def with_recent(self, recent: ItemLog, latest: int) -> AsOf:
        """A copy whose recent events are those of a log, the last of them at `latest`."""
        index = copy.copy(self)
        index.recent, index.latest = recent, max(self.latest, latest)
        return index

    def append(self, events: pl.DataFrame) -> None:
        """Add new events, in any order.

        Time is proportional to the number of events. Not to be called at the same time as `numbers` of the same index:
        `live_index` has two copies for that.

        Parameters
        ----------
        events: `user` and `item` codes, `time` in microseconds; `weight` (1 where missing), `value` and `kind` (by
            name) where the log has them. An unknown kind counts in the totals only.

        Raises DataError for a log without times.
        """
        if not self.has_times:
            raise DataError(_NO_TIMES, remedy="learn again from all")
        item, time, weight, value, slot = self._coded(events)
        self.recent.append(item, time, weight, value, slot)
        self.latest = max(self.latest, int(time.max(initial=self.latest)))

    def _coded(self, events: pl.DataFrame) -> tuple[np.ndarray, ...]:
        """Columns item, time, weight, value, and the position of the kind among the counted ones."""
        item, time, weight, value, _ = _columns(events)
        if "kind" in events.columns:
            codes = {name: code for code, name in enumerate(self.kinds)}
            names = events["kind"].cast(pl.String)
            kind = names.replace_strict(codes, default=len(self.kinds), return_dtype=pl.Int64).to_numpy()
        else:
            kind = np.full(len(item), len(self.kinds), dtype=np.int64)
        return item, time, weight, value, _slots(kind, self.counted, self.kinds)

    # -- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The whole index as a flat dictionary of JSON values and arrays; CSR as three arrays."""
        state: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("has_times", "kinds", "counted", "windows", "latest", "last", "session_gap", "rates")
        }
        for part in ("log", "recent"):
            state |= {f"{part}.{name}": value for name, value in getattr(self, part).state().items()}
        state |= {f"own.{number}": array for number, array in enumerate(self.own)}
        tables: list[tuple[str, str, list[int]]] = []
        for what in ("categories", "neighbors"):
            for number, (name, rows) in enumerate(getattr(self, what).items()):
                tables.append((what, name, list(rows.shape)))
                state |= {f"{what}.{number}.{part}": getattr(rows, part) for part in _CSR}
        if self.content is not None:
            tables.append(("content", "", list(self.content.shape)))
            state |= {f"content.0.{part}": getattr(self.content, part) for part in _CSR}
        if self.prices is not None:
            state["prices"] = self.prices
        return state | {"tables": tables, "owns": len(self.own)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> AsOf:
        """What `state` came from."""
        logs = {
            part: ItemLog.from_state({name[len(part) + 1 :]: value for name, value in state.items()
                                      if name.startswith(f"{part}.")})
            for part in ("log", "recent")
        }  # fmt: skip
        matrices: dict[str, dict[str, sparse.csr_matrix]] = {"categories": {}, "neighbors": {}, "content": {}}
        for what, name, shape in state["tables"]:
            key = f"{what}.{len(matrices[what])}"
            parts = tuple(state[f"{key}.{part}"] for part in _CSR)
            matrices[what][name] = sparse.csr_matrix(parts, shape=tuple(shape), copy=False)
        return cls(
            logs["log"],
            logs["recent"],
            state["has_times"],
            tuple(state["kinds"]),
            # An older index names the counted kinds by their codes.
            tuple(state["kinds"][name] if isinstance(name, int) else name for name in state["counted"]),
            tuple(state["windows"]),
            state["latest"],
            tuple(state[f"own.{number}"] for number in range(state["owns"])),
            matrices["categories"],
            state.get("prices"),
            matrices["neighbors"],
            matrices["content"].get(""),
            state["last"],
            state["session_gap"],
            bool(state.get("rates", False)),
        )


_OWN_SLOTS = (
    kernels.OWN_OFFSETS, kernels.OWN_ITEMS, kernels.OWN_WEIGHTS, kernels.OWN_VALUES, kernels.OWN_KINDS,
)  # fmt: skip
_OWN_TYPES = (np.int64, np.int32, np.float32, np.float32, np.int8)
_CSR = ("data", "indices", "indptr")
_NO_TIMES = "the log has no times, so later events cannot be told from earlier ones"


def _columns(events: pl.DataFrame) -> tuple[np.ndarray, ...]:
    """item, time, weight, value and code of the kind, as the log takes them."""
    n = len(events)
    present = set(events.columns)
    if not {"item", "time"} <= present:
        raise DataError("events need the columns item and time", remedy="item codes, and microseconds UTC")
    weight = events["weight"].to_numpy() if "weight" in present else np.ones(n, np.float32)
    value = events["value"].cast(pl.Float32).fill_null(np.nan).to_numpy() if "value" in present else np.full(n, np.nan)
    enumerated = "kind" in present and isinstance(events.schema["kind"], pl.Enum)
    kind = events["kind"].to_physical().to_numpy() if enumerated else np.zeros(n, np.uint8)
    item = events["item"].to_numpy().astype(np.int32, copy=False)
    if item.min(initial=0) < 0:
        raise DataError("an event of an unknown item", column="item", remedy="codes from 0; leave unknown items out")
    return (
        item,
        events["time"].to_numpy().astype(np.int64, copy=False),
        weight.astype(np.float32, copy=False),
        value.astype(np.float32, copy=False),
        kind,
    )


def _counted(kind: np.ndarray, kinds: Sequence[str]) -> tuple[str, ...]:
    """Kinds that get features of their own: the most frequent ones; none where the log has a single kind."""
    if len(kinds) < 2:
        return ()
    often = np.argsort(-np.bincount(kind, minlength=len(kinds)), kind="stable")
    return tuple(kinds[code] for code in sorted(often[:MAX_COUNTED_KINDS].tolist()))


def _slots(kind: np.ndarray, counted: tuple[str, ...], kinds: Sequence[str]) -> np.ndarray:
    """int8[...]: position of each code of `kind` among the counted kinds; len(counted) for all other codes."""
    places = {name: place for place, name in enumerate(counted)}
    return np.array([*(places.get(name, len(counted)) for name in kinds), len(counted)], dtype=np.int8)[kind]


def _logs(prices: np.ndarray) -> np.ndarray:
    """float32[...]: logs of positive prices, NaN for the others."""
    values = np.asarray(prices, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, np.log(values), np.nan).astype(np.float32)
