"""The data doctor: what is wrong, or merely odd, with a log, by name, with what to do about it.

Each check is a function from the `Facts` of a log to a `Finding` or None; a new one is one function and one
name in `CHECKS`. Facts that several checks need (counts, sorted times) are computed once.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import cached_property

import numpy as np
import polars as pl
from scipy.stats import rankdata

from zhiyin.core.durations import UNITS, spell
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.dataset import Dataset
from zhiyin.data.event_schema import KNOWN_KINDS
from zhiyin.data.ids import Ids
from zhiyin.data.role_inference import LEAKING, words
from zhiyin.data.splits import _cut

SEVERITIES = ("error", "warning", "info")
# Events and share of the test part from which one user is said to fill it.
_CROWD, _CROWD_SHARE = 100, 0.2
_DAY = UNITS["d"]
_YEAR_1990 = 631_152_000 * UNITS["s"]
# Kinds that mean what they say and count 1.
_PLACEHOLDERS = [
    "", "-1", "null", "none", "nan", "n/a", "undefined", "unknown", "anonymous", "guest", "test", "default",
]  # fmt: skip
_COUNTED = {"quantity", "qty", "count", "plays", "listens", "amount", "weight", "value"}
# U+FFFD, and UTF-8 read as Windows-1252: "Ã©" for "é", "â€™" for an apostrophe, "Â£" for "£".
_GARBLED = "\ufffd|Ã[\u0080-\u00bf‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€|Â[\u00a0-\u00bf]"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing found.

    Parameters
    ----------
    name: stable, such as "duplicate-events"; what a program matches on.
    severity: "error" (learning from this is no use), "warning" (figures will mislead), "info" (good to know).
    message: what was found, with its extent.
    remedy: what to do about it.
    count: how many rows, users, items or columns it concerns, where that is a number.
    """

    name: str
    severity: str
    message: str
    remedy: str
    count: int | None = None

    def __str__(self) -> str:
        return f"{self.severity}: {self.name}: {self.message}\n  What to do: {self.remedy}"


def examine(data: Dataset, test: str | float | None = None) -> list[Finding]:
    """Everything the doctor finds in a log, the worst first.

    Parameters
    ----------
    test: the test part a later split by time will take, as `split` understands it.

    >>> log = pl.DataFrame({"user": [1, 1, 2], "item": [1, 1, 2], "value": [1.0, 1.0, 5.0]})
    >>> [finding.name for finding in examine(Dataset.build(log))][:2]
    ['too-little-data', 'no-times']
    """
    facts = Facts(data, test)
    found = [finding for check in CHECKS if (finding := check(facts)) is not None]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


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
        return len(times) > 1 and times[0] != times[-1] and not (times % _DAY).any()

    @cached_property
    def cut(self) -> int | DataError | ConfigError | None:
        """First moment of the test part, or why a split by time is impossible; None without times."""
        if not self.data.has_times:
            return None
        try:
            return _cut(self.data, self.test)
        except (DataError, ConfigError) as error:
            return error


def _share(part: float, whole: float) -> str:
    share = part / whole if whole else 0.0
    return f"{share:.1%}" if share >= 0.0005 or not part else "under 0.1%"


def _name(ids: Ids, codes: np.ndarray, most: int = 3) -> str:
    """The first few raw ids, for a message."""
    shown = ", ".join(repr(raw) for raw in ids.decode(codes[:most]).to_list())
    return shown + (f" and {len(codes) - most:,} more" if len(codes) > most else "")


def _day(us: int) -> str:
    return str(np.datetime64(int(us), "us").astype("datetime64[D]"))


# What could not be read


def bad_rows(facts: Facts) -> Finding | None:
    """Rows the reader set aside."""
    count = len(facts.data.quarantine)
    if not count:
        return None
    whole = count + facts.data.n_events
    bare = pl.col("reason").str.replace(r" = .*? is ", " is ")
    reasons = facts.data.quarantine.select(bare).to_series().value_counts(sort=True).head(3).iter_rows()
    listed = "; ".join(f"{n:,} × {reason}" for reason, n in reasons)
    return Finding(
        "bad-rows",
        "error" if count > 0.1 * whole else "warning",
        f"{count:,} of {whole:,} rows ({_share(count, whole)}) are of no use and were set aside: {listed}",
        "see quarantine.csv, which zhiyin check writes (in Python: data.quarantine); mend the rows at their source, or "
        "name other columns under [columns]",
        count,
    )


def missing_times(facts: Facts) -> Finding | None:
    """Rows set aside because their time is missing or unreadable."""
    reason = facts.data.quarantine["reason"]
    count = int(reason.str.contains(r"time is missing|is not a time").sum())
    if not count:
        return None
    return Finding(
        "missing-times",
        "warning",
        f"{count:,} rows have no readable time and were set aside, while the others have one",
        "fill in the times; if most are missing, leave the time column out under [columns] to keep the rows",
        count,
    )


def future_times(facts: Facts) -> Finding | None:
    """Rows set aside because their time is more than a day ahead of the clock."""
    count = int(facts.data.quarantine["reason"].str.contains("ahead of the clock", literal=True).sum())
    if not count:
        return None
    return Finding(
        "future-times",
        "warning",
        f"{count:,} rows have a time more than a day ahead of the clock and were set aside: one of them would be the "
        "end of the log, and every window and every age would be counted from there",
        "correct the clock of who writes them, or the unit or the zone of the time column",
        count,
    )


def mixed_encodings(facts: Facts) -> Finding | None:
    """Bytes that are not UTF-8, and text that was garbled before it came here."""
    data = facts.data
    said = [note for note in data.notes if "not UTF-8" in note]
    written = data.assumed.get("encoding", "cp1252").upper().replace("CP", "WINDOWS-")
    garbled: dict[str, int] = {}
    for which, frame in (("items", data.items), ("users", data.users)):
        text = [name for name, dtype in frame.schema.items() if dtype == pl.String]
        hits = frame.select(pl.col(text).str.contains(_GARBLED).sum()) if text else pl.DataFrame()
        garbled |= {f"{which}.{name}": int(hits[name][0]) for name in text if hits[name][0]}
    if not said and not garbled:
        return None
    listed = ", ".join(f"{count:,} in {column}" for column, count in garbled.items())
    return Finding(
        "mixed-encodings",
        "warning",
        "; ".join([*said, *([f"garbled characters such as “Ã©” or “\ufffd”: {listed}"] if garbled else [])]),
        f"save every file as UTF-8 from its source: iconv -f {written} -t UTF-8 old.csv > new.csv",
        sum(garbled.values()) or None,
    )


# Times


def no_times(facts: Facts) -> Finding | None:
    """A log without times."""
    if facts.data.has_times:
        return None
    return Finding(
        "no-times",
        "warning",
        "the log has no times: zhiyin will split by ratio, and models of order and recency are of no use",
        "name a time column if there is one; else read the figures as those of a random split",
    )


def impossible_times(facts: Facts) -> Finding | None:
    """Events in the future, or before there were such logs."""
    times = facts.sorted_times
    early = int(np.searchsorted(times, _YEAR_1990))
    late = len(times) - int(np.searchsorted(times, facts.now + _DAY, side="right"))
    if not early + late:
        return None
    parts = [f"{early:,} events before 1990 (the first {_day(times[0])})"] if early else []
    parts += [f"{late:,} events in the future (the last {_day(times[-1])})"] if late else []
    return Finding(
        "impossible-times",
        "error" if early + late > 0.01 * len(times) else "warning",
        "; ".join(parts) + ": a split by time and every notion of recency go wrong with them",
        "check the unit and the clock of the source; leave these rows out or mend them",
        early + late,
    )


def one_moment(facts: Facts) -> Finding | None:
    """Many events of many users at the same moment: the time of an import, not of the events."""
    times = facts.sorted_times
    if len(times) < 100 or facts.whole_days:
        return None
    starts = np.flatnonzero(np.concatenate([[True], times[1:] != times[:-1]]))
    sizes = np.diff(np.append(starts, len(times)))
    top = int(np.argmax(sizes))
    if sizes[top] < max(100, 0.05 * len(times)):
        return None
    moment = str(np.datetime64(int(times[starts[top]]), "us").astype("datetime64[s]")).replace("T", " ")
    return Finding(
        "one-moment",
        "error" if sizes[top] > 0.5 * len(times) else "warning",
        f"{sizes[top]:,} events ({_share(sizes[top], len(times))}) carry the same time, {moment} UTC",
        "that is probably when they were imported: find the events' own times, or leave these out",
        int(sizes[top]),
    )


def coarse_times(facts: Facts) -> Finding | None:
    """Events of one user at one moment: their order is that of the rows."""
    if not facts.data.has_times or facts.data.n_events < 2:
        return None
    same = (facts.time[1:] == facts.time[:-1]) & (facts.user[1:] == facts.user[:-1])
    tied = np.zeros(len(facts.time), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    count = int(tied.sum())
    if not facts.whole_days and count < 0.2 * len(tied):
        return None
    what = "times are whole days" if facts.whole_days else "times are coarse, or written in batches"
    return Finding(
        "coarse-times",
        "info",
        f"{what}: {_share(count, len(tied))} of events share user and moment with another, and keep "
        "the order of the rows",
        "log seconds or finer; until then trust sequence models no further than the order of the rows",
        count,
    )


def time_gaps(facts: Facts) -> Finding | None:
    """Long stretches without any event."""
    times = facts.sorted_times
    if len(times) < 100:
        return None
    gaps = np.diff(times)
    span = int(times[-1] - times[0])
    long = np.flatnonzero((gaps > 0.05 * span) & (gaps > 20 * span / len(gaps)) & (gaps > _DAY))
    if not len(long):
        return None
    widest = long[np.argmax(gaps[long])]
    return Finding(
        "time-gaps",
        "warning",
        f"{len(long)} long {'stretch' if len(long) == 1 else 'stretches'} without events in {spell(span)}; "
        f"the longest, {spell(int(gaps[widest]))}, from {_day(times[widest])} to {_day(times[widest + 1])}",
        "check whether a part of the log is missing or a time is wrong; if it is real, train on the rest",
        len(long),
    )


# Events


def duplicate_events(facts: Facts) -> Finding | None:
    """The same user, item and kind at the same time; without times the same user, item and kind."""
    events = facts.data.events
    if len(events) < 2:
        return None
    new = np.concatenate([[True], facts.user[1:] != facts.user[:-1]])
    if facts.data.has_times:
        new[1:] |= facts.time[1:] != facts.time[:-1]
    # Rows are sorted by (user, time), so duplicates share a run of equal ones; a run of one row holds none.
    inside = ~(new & np.append(new[1:], True))
    run = np.cumsum(new)[inside]
    kind = events["kind"].to_physical().to_numpy()[inside].astype(np.int64)
    key = (run * facts.data.n_items + facts.item[inside]) * max(1, len(facts.data.kinds)) + kind
    key.sort()
    count = int((key[1:] == key[:-1]).sum())
    if not count:
        return None
    same = "user, item, kind and time" if facts.data.has_times else "user, item and kind (there are no times to tell)"
    return Finding(
        "duplicate-events",
        "warning",
        f"{count:,} events ({_share(count, len(events))}) repeat another one in {same}",
        "they are kept and count twice: remove them at the source if one act was logged twice",
        count,
    )


def weightless_events(facts: Facts) -> Finding | None:
    """Events that no weight rule matches."""
    count = int((facts.data.events["weight"] == 0).sum())
    if not count:
        return None
    return Finding(
        "weightless-events",
        "error" if count == facts.data.n_events else "warning",
        f"{count:,} events ({_share(count, facts.data.n_events)}) match no weight: seen, but worth nothing",
        'give them a weight under [weights], such as "rating >= 4" = 1, if they should count',
        count,
    )


def low_ratings(facts: Facts) -> Finding | None:
    """Ratings that say "no" and count as "yes"."""
    data = facts.data
    value, weight = data.events["value"], data.events["weight"]
    low, high = value.min(), value.max()
    if low is None or high is None or low == high:
        return None
    low, high = float(low), float(high)  # type: ignore[arg-type]
    negative = int(((value < 0) & (weight > 0)).sum())
    if negative:
        return Finding(
            "low-ratings-as-positive",
            "warning",
            f"{negative:,} events with a negative value count as positive",
            'weigh them: "rating < 0" = -1 under [weights]',
            negative,
        )
    counted = data.roles is not None and data.roles.rating is not None and _COUNTED & set(words(data.roles.rating))
    if counted or high > 100 or weight.n_unique() > 1 or value.n_unique() > 101:
        return None  # plays and quantities are no opinions; differing weights are a decision already made
    limit = low + 0.4 * (high - low)
    count = int((value <= limit).sum())
    if not count:
        return None
    good = f"{low + 0.75 * (high - low):g}"
    return Finding(
        "low-ratings-as-positive",
        "info",
        f"{count:,} events ({_share(count, data.n_events)}) are ratings of {limit:g} or less, on a scale "
        f"of {low:g} to {high:g}, and count as much as the best",
        f'count the good ones only: "rating >= {good}" = 1 under [weights], unless any choice counts',
        count,
    )


def unknown_kinds(facts: Facts) -> Finding | None:
    """Kinds of events that zhiyin does not know by name and nobody weighed."""
    events = facts.data.events
    strange = [kind for kind in facts.data.kinds if kind.lower() not in KNOWN_KINDS]
    if len(facts.data.kinds) < 2 or not strange:
        return None
    rows = (
        events.lazy().filter(pl.col("kind").is_in(strange) & (pl.col("weight") == 1)).group_by("kind").len().collect()
    )
    count = int(rows["len"].sum())
    if not count:
        return None
    names = rows["kind"].cast(pl.String).sort().to_list()
    return Finding(
        "unknown-kinds",
        "info",
        f"{count:,} events are of kinds zhiyin does not know and count 1: {', '.join(names[:8])}",
        f'say what they are worth under [weights]: "{names[0]}" = 2, or -1 for a dislike',
        count,
    )


# Users


def one_event_users(facts: Facts) -> Finding | None:
    """Users with a single event: nothing can be learned and tested on them at once."""
    active = int((facts.per_user > 0).sum())
    count = int((facts.per_user == 1).sum())
    if not count:
        return None
    return Finding(
        "one-event-users",
        "warning" if count > 0.3 * active else "info",
        f"{count:,} of {active:,} users ({_share(count, active)}) have one event only",
        "they get popular items; check that one person does not come under many ids (sessions, devices)",
        count,
    )


def bot_like_users(facts: Facts) -> Finding | None:
    """Users with far more events than others, or faster than a person can act."""
    counts = facts.per_user
    active = counts[counts > 0]
    usual = float(np.quantile(active, 0.99, method="lower"))
    many = counts > max(1000.0, 10 * usual)
    fast = np.zeros(len(counts), dtype=bool)
    pace = 1000
    if facts.data.has_times and len(facts.time) > pace and not facts.whole_days:
        took = facts.time[pace - 1 :] - facts.time[: -pace + 1]
        # A thousand events at one and the same moment are an import, not a fast hand.
        hasty = (facts.user[pace - 1 :] == facts.user[: -pace + 1]) & (took > 0) & (took <= UNITS["h"])
        fast[facts.user[pace - 1 :][hasty]] = True
    suspects = np.flatnonzero(many | fast)
    if not len(suspects):
        return None
    suspects = suspects[np.argsort(-counts[suspects], kind="stable")]
    share = _share(float(counts[suspects].sum()), facts.data.n_events)
    why = [f"{int(many.sum())} with over ten times the events of 99% of users ({usual:,.0f})"] if many.any() else []
    why += [f"{int(fast.sum())} with {pace:,} events within an hour"] if fast.any() else []
    return Finding(
        "bot-like-users",
        "warning",
        f"{len(suspects):,} users may be robots ({'; '.join(why)}) and have {share} of all events: "
        f"{_name(facts.data.user_ids, suspects)}",
        "leave robots, staff and shared accounts out of the log: they teach what no customer wants",
        len(suspects),
    )


def placeholder_ids(facts: Facts) -> Finding | None:
    """An id that stands for "not known" and gathers the events of many."""
    found = []
    for role, ids, counts in (
        ("user", facts.data.user_ids, facts.per_user),
        ("item", facts.data.item_ids, facts.per_item),
    ):
        middle = float(np.median(counts[counts > 0]))
        heavy = np.flatnonzero((counts > 0.01 * facts.data.n_events) & (counts > 10 * middle))
        names = ids.decode(heavy).cast(pl.String).str.to_lowercase()
        hit = heavy[names.is_in(_PLACEHOLDERS).to_numpy()]
        found += [(role, ids.decode(hit[i : i + 1])[0], int(counts[hit[i]])) for i in range(len(hit))]
    if not found:
        return None
    listed = "; ".join(f"{role} {raw!r} with {count:,} events" for role, raw, count in found)
    return Finding(
        "placeholder-ids",
        "warning",
        f"some ids look like stand-ins for an unknown one: {listed}",
        "leave these rows out, or give each visit an id of its own",
        len(found),
    )


# Items


def items_without_events(facts: Facts) -> Finding | None:
    """Items of the catalogue that nobody touched."""
    count = int((facts.per_item == 0).sum())
    if not count:
        return None
    return Finding(
        "items-without-events",
        "warning" if count > 0.5 * facts.data.n_items else "info",
        f"{count:,} of {facts.data.n_items:,} items ({_share(count, facts.data.n_items)}) have no event",
        "only models that read their descriptions can recommend them; remove what is no longer on offer",
        count,
    )


def _undescribed(frame: pl.DataFrame, seen: np.ndarray) -> np.ndarray | None:
    """Codes with events about which the table says nothing; None without a table."""
    described = frame.drop("id")
    if not described.width or not described.select(pl.any_horizontal(pl.all().is_not_null().any())).item():
        return None
    return np.flatnonzero(described.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy() & seen)


def items_without_metadata(facts: Facts) -> Finding | None:
    """Items of the log that the items table does not describe, where it describes most."""
    seen = facts.per_item > 0
    blank = _undescribed(facts.data.items, seen)
    if blank is None or not len(blank) or len(blank) >= 0.5 * seen.sum():
        return None
    return Finding(
        "items-without-metadata",
        "warning" if len(blank) > 0.05 * seen.sum() else "info",
        f"{len(blank):,} of {int(seen.sum()):,} items with events have no description: "
        f"{_name(facts.data.item_ids, blank)}",
        "add them to the items table; until then they are recommended by events alone",
        len(blank),
    )


def id_mismatch(facts: Facts) -> Finding | None:
    """The log and a table seem to speak of different things: most ids of one are not in the other."""
    for role, frame, ids, counts in (
        ("item", facts.data.items, facts.data.item_ids, facts.per_item),
        ("user", facts.data.users, facts.data.user_ids, facts.per_user),
    ):
        seen = counts > 0
        blank = _undescribed(frame, seen)
        if blank is None or len(blank) < 0.5 * seen.sum():
            continue
        other = np.flatnonzero(~seen)
        written = f", the table {_name(ids, other, 2)}" if len(other) else ""
        return Finding(
            "id-mismatch",
            "error",
            f"the {role}s table knows {_share(float(seen.sum() - len(blank)), seen.sum())} of the log's: "
            f"the log writes {_name(ids, blank, 2)}{written}",
            f"compare how both write ids (zeros, case, another column); set {role}_id under [columns]",
            len(blank),
        )
    return None


def popularity_concentration(facts: Facts) -> Finding | None:
    """How much of the log the most popular items hold."""
    counts = np.sort(facts.per_item[facts.per_item > 0])
    n = len(counts)
    if n < 100:
        return None
    top = int(counts[-max(1, round(n / 100)) :].sum())
    share = top / counts.sum()
    gini = float((2 * np.arange(1, n + 1) - n - 1) @ counts / (n * counts.sum()))
    if share < 0.25 and gini < 0.8:
        return None
    return Finding(
        "popularity-concentration",
        "warning" if share > 0.6 else "info",
        f"the top 1% of items have {share:.1%} of all events (Gini {gini:.2f})",
        "compare every model with Popular, and look at coverage and tail items beside accuracy",
        max(1, round(n / 100)),
    )


def leaking_columns(facts: Facts) -> Finding | None:
    """Numeric columns that summarise the events to be predicted, by their name or by what they follow."""
    items = facts.data.items
    numeric = [name for name, dtype in items.schema.items() if dtype.is_numeric() and name != "id"]
    suspects = {name: "by name" for name in numeric if LEAKING.search(name)}
    seen = facts.per_item > 0
    targets = {"the number of events": facts.per_item.astype(np.float64)}
    value = facts.data.events["value"]
    if value.null_count() < len(value):
        given = value.is_not_null().to_numpy()
        rated = np.bincount(facts.item[given], minlength=len(seen))
        total = np.bincount(facts.item[given], value.drop_nulls().to_numpy(), minlength=len(seen))
        targets["the mean rating"] = np.where(rated > 0, total / np.maximum(rated, 1), np.nan)
    for name in numeric:
        column = items[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        for what, target in targets.items():
            both = seen & np.isfinite(column) & np.isfinite(target)
            if name not in suspects and both.sum() >= 50 and abs(_spearman(column[both], target[both])) > 0.8:
                suspects[name] = f"it follows {what}"
    if not suspects:
        return None
    listed = ", ".join(f"{name} ({why})" for name, why in suspects.items())
    return Finding(
        "leaking-columns",
        "warning",
        f"these item columns seem to sum up the very events to be predicted, test events included: {listed}",
        "leave them out of features (item_columns under [columns]), or compute them anew from the train part",
        len(suspects),
    )


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    a, b = rankdata(a), rankdata(b)
    if a.min() == a.max() or b.min() == b.max():
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def constant_columns(facts: Facts) -> Finding | None:
    """Columns of items and users that say the same of all, or nothing at all."""
    found = []
    for which, frame in (("items", facts.data.items), ("users", facts.data.users)):
        if len(frame) < 2:
            continue
        plain = [name for name, dtype in frame.schema.items() if name != "id" and not dtype.is_nested()]
        found += [f"{which}.{name}" for name in plain if frame[name].n_unique() == 1]
    if not found:
        return None
    return Finding(
        "constant-columns",
        "info",
        f"these columns have one value throughout and tell nothing: {', '.join(found)}",
        "leave them out, or check that they were read from the right column",
        len(found),
    )


# What a split by time would leave


def too_little_data(facts: Facts) -> Finding | None:
    """Too few events or users to learn from, or too few in the test part to judge by."""
    data, cut = facts.data, facts.cut
    active = int((facts.per_user > 0).sum())
    if data.n_events < 1000 or active < 100:
        return Finding(
            "too-little-data",
            "warning",
            f"{data.n_events:,} events of {active:,} users are too few for figures one can trust",
            "collect more before comparing models; until then Popular is hard to beat",
            data.n_events,
        )
    if cut is None:
        return None
    if not isinstance(cut, int):
        return Finding("too-little-data", "error", cut.message, cut.remedy or "another test window")
    later = facts.time >= cut
    users = np.unique(facts.user[later])
    length, span = data.window[1] + 1 - cut, data.window[1] - data.window[0]
    if len(users) >= 100 and not (length < _DAY < span / 7) and later.mean() < 0.9:
        return None
    return Finding(
        "too-little-data",
        "warning",
        f"a split by time would judge by {len(users):,} users and {int(later.sum()):,} events "
        f"({_share(later.sum(), len(later))}) in the last {spell(length)}",
        "choose a test part with at least 100 users and a day, better a week, and most events before it",
        len(users),
    )


def crowding_users(facts: Facts) -> Finding | None:
    """A user who fills the part of the log that a split by time would judge by."""
    cut = facts.cut
    if not isinstance(cut, int):
        return None
    counts = np.bincount(facts.user[facts.time >= cut], minlength=facts.data.n_users)
    total = int(counts.sum())
    usual = float(np.median(facts.per_user[facts.per_user > 0]))
    suspects = np.flatnonzero((counts >= _CROWD) & (counts > _CROWD_SHARE * total) & (counts > 10 * usual))
    if not len(suspects):
        return None
    suspects = suspects[np.argsort(-counts[suspects], kind="stable")]
    count = int(counts[suspects].sum())
    return Finding(
        "crowding-users",
        "warning",
        f"{_name(facts.data.user_ids, suspects)} made {count:,} of the {total:,} events ({_share(count, total)}) since "
        f"{_day(cut)}, where a test part would begin",
        "a monitor, a kiosk or a robot: leave it out of the log; training and evaluation take an earlier cut where too "
        "few others can be judged",
        len(suspects),
    )


def drift(facts: Facts) -> Finding | None:
    """How much of the test part is new: users without a past, items without an event."""
    cut = facts.cut
    if not isinstance(cut, int):
        return None
    later = facts.time >= cut
    known_items = np.bincount(facts.item[~later], minlength=facts.data.n_items) > 0
    known_users = np.bincount(facts.user[~later], minlength=facts.data.n_users) > 0
    new_items = float((~known_items[facts.item[later]]).mean())
    users = np.unique(facts.user[later])
    new_users = float((~known_users[users]).mean())
    if new_items < 0.2 and new_users < 0.5:
        return None
    return Finding(
        "drift",
        "info",
        f"from {_day(cut)}, where a test part would begin, {new_users:.0%} of users have no earlier event "
        f"and {new_items:.0%} of events go to items without one",
        "models that know items by their events miss new ones: read the figures by segment, retrain often",
        int((~known_users[users]).sum()),
    )


CHECKS: tuple[Callable[[Facts], Finding | None], ...] = (
    bad_rows, missing_times, future_times, mixed_encodings, id_mismatch, too_little_data, no_times, impossible_times,
    one_moment, coarse_times, time_gaps, duplicate_events, weightless_events, low_ratings, unknown_kinds,
    one_event_users, bot_like_users, placeholder_ids, items_without_events, items_without_metadata,
    popularity_concentration, leaking_columns, constant_columns, crowding_users, drift,
)  # fmt: skip
