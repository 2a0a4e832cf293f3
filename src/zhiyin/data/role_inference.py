"""The roles of the columns of a log, guessed from names, types and contents.

Every guess is noted and can be overruled.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import polars as pl

from zhiyin.core.durations import UNITS
from zhiyin.core.errors import DataError, suggest
from zhiyin.data.column_names import (
    FOREIGN_WORDS,
    ITEM_DETAILS,
    ROLE_WORDS,
    USER_DETAILS,
    name_score,
    secondary_score,
    words,
)  # fmt: skip
from zhiyin.data.column_roles import ROLES, Roles
from zhiyin.data.event_schema import KNOWN_KINDS
from zhiyin.data.time_of_day import read_clock
from zhiyin.data.timestamps import looks_like_times, to_microseconds

# Names of columns of outcomes: whether something happened in a row.
_OUTCOMES = {"click", "clicked", "label", "like", "liked", "purchased", "converted", "conversion"}


def _fits(role: str, column: pl.Series, named: bool = False) -> bool:
    """Whether the contents can play the role at all; `named`: the column is called so."""
    seen = column.drop_nulls()
    if not len(seen) or column.dtype.is_nested():
        return False
    if role == "time":
        return looks_like_times(column, named)
    if role == "rating":
        return column.dtype.is_numeric() or column.dtype == pl.Boolean
    if role == "kind":
        return seen.n_unique() <= 50 and column.dtype in (pl.String, pl.Categorical, pl.Int64)
    return not column.dtype.is_temporal()


def guess_roles(sample: pl.DataFrame, named_columns: dict[str, str] | None = None, source: str = "") -> Roles:
    """The roles of an event log's columns.

    `named_columns` are roles the caller is sure of. Raises DataError when user or item cannot be found or named.
    """
    named_columns = {role: column for role, column in (named_columns or {}).items() if column is not None}
    for role, column in named_columns.items():
        if role not in ROLES:
            raise DataError(f"there is no role {role!r}", file=source, remedy=suggest(role, list(ROLES)))
        if column not in sample.columns:
            raise DataError(f"there is no column {column!r}", file=source, remedy=suggest(column, sample.columns))
    roles = dict(named_columns)
    free = [name for name in sample.columns if name not in roles.values()]
    # Contents tell time from numbers better than names do: unnamed columns are judged by them, in the end.
    for role in ("time", "user", "item", "rating", "kind"):
        if role in roles:
            continue
        named = _best_named(role, sample, free, name_score)
        if role == "user" and named is not None and 2 * sample[named].null_count() > len(sample):
            named = _best_named(role, sample, free, secondary_score) or named  # sessions, where few are signed in
        if named is not None:
            roles[role] = named
            free.remove(named)
    for role in ("user", "item", "rating"):
        named = _best_named(role, sample, free, secondary_score) if role not in roles else None
        if named is not None:
            roles[role] = named
            free.remove(named)
    if "time" not in roles:
        _guess_time(sample, free, roles)
    elif "time" not in named_columns:
        _prefer_clock(sample, free, roles)
    _guess_by_contents(sample, free, roles)
    missing = [role for role in ("user", "item") if role not in roles]
    if missing:
        remedy = f'name it: columns={{"{missing[0]}": "..."}}, or {missing[0]} = "..." in zhiyin.toml'
        if len(sample.columns) == 1:
            remedy = f"name what stands between the fields: separator = ... under [read], or --assume; or {remedy}"
        raise DataError(
            f"no column looks like the {' or the '.join(missing)}; columns: {_shortened(sample.columns)}"
            + "".join(map(_unfit, [(role, sample) for role in missing])),
            file=source, remedy=remedy,
        )  # fmt: skip
    clock = _clock_column(sample, free, roles) if "time" in roles else None
    if clock is not None:
        free.remove(clock)
    details = _details(sample, free, roles["user"], roles["item"])
    return Roles(**roles, **details, clock=clock)  # type: ignore[arg-type]


def _best_named(role: str, sample: pl.DataFrame, free: list[str], score_of: Callable[[str, str], float]) -> str | None:
    """The column whose name suits a role best, of those whose contents do; the first of equals."""
    scored = [(score_of(role, name), -i, name) for i, name in enumerate(free)]
    best = max((entry for entry in scored if entry[0] >= 1 and _fits(role, sample[entry[2]], True)), default=None)
    return best[2] if best else None


def _prefer_clock(sample: pl.DataFrame, free: list[str], roles: dict[str, str]) -> None:
    """Where the times are whole days, take a column of moments instead that is named as one and is of the event."""
    if _has_clock(sample[roles["time"]]):
        return
    keys = [roles[role] for role in ("user", "item") if role in roles]
    for name in free:
        suits = name_score("time", name) >= 1 and _fits("time", sample[name], True) and _has_clock(sample[name])
        if suits and not any(_depends(sample, name, key) for key in keys):
            free[free.index(name)] = roles["time"]
            roles["time"] = name
            return


def _clock_column(sample: pl.DataFrame, free: list[str], roles: dict[str, str]) -> str | None:
    """The column that holds the time of day of the events where the times are whole days: "time" with "date",
    "InvoiceTime" with "InvoiceDate"."""
    if _has_clock(sample[roles["time"]]):
        return None
    days = _without_time_words(roles["time"])
    for name in free:
        read = len(sample) - read_clock(sample[name]).null_count()
        written = len(sample) - sample[name].null_count()
        if read and 2 * read > written and _without_time_words(name) in (days, ()):
            return name
    return None


def _without_time_words(name: str) -> tuple[str, ...]:
    """The words of a name that do not name a day, a time or an hour."""
    foreign = re.sub(FOREIGN_WORDS["time"], "", name.lower())
    plain = words(name) if name.isascii() else [foreign] if foreign else []
    return tuple(word for word in plain if word not in ROLE_WORDS["time"] | {"hour", "clock", "of", "the"})


def _has_clock(column: pl.Series) -> bool:
    """Whether moments of a column are more than days."""
    times = to_microseconds(column).drop_nulls()
    return bool((times % UNITS["d"] != 0).any())


def _shortened(names: list[str]) -> str:
    listed = ", ".join(name if len(name) <= 60 else name[:57] + "..." for name in names[:20])
    return listed + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _unfit(pair: tuple[str, pl.DataFrame]) -> str:
    """Why a column that is named like a role cannot play it, as the end of a sentence."""
    role, sample = pair
    named = next((name for name in sample.columns if name_score(role, name) >= 1), None)
    if named is None:
        return ""
    dtype = sample[named].dtype
    if _is_blank(sample[named]):
        return f"; {named} is empty"
    return (
        f"; {named} holds {'lists or objects' if dtype.is_nested() else dtype}"
        if not _fits(role, sample[named])
        else ""
    )


def _guess_time(sample: pl.DataFrame, free: list[str], roles: dict[str, str]) -> None:
    """A column of moments, whatever it is called: typed so, else of texts with a clock in them."""
    typed = [name for name in free if sample[name].dtype in (pl.Datetime, pl.Date) and not _is_blank(sample[name])]
    texts = [
        name
        for name in free
        if sample[name].dtype == pl.String
        and bool(sample[name].drop_nulls().head(100).str.contains(r"\d[T ]?\d{1,2}:\d{2}").all())
        and looks_like_times(sample[name])
    ]
    keys = [roles[role] for role in ("user", "item") if role in roles]
    for name in [*typed, *texts]:
        if not any(_depends(sample, name, key) for key in keys):  # a birthday describes the user
            roles["time"] = name
            free.remove(name)
            return


def ignored(sample: pl.DataFrame, roles: Roles) -> list[str]:
    """Sentences about columns of the log that are not used, those first that are named like a role."""
    used = {
        roles.user,
        roles.item,
        roles.time,
        roles.rating,
        roles.kind,
        roles.clock,
        roles.text,
        *roles.item_columns,
        *roles.user_columns,
    }
    unused = [name for name in sample.columns if name not in used]
    sentences = []
    for role, what in (("time", "times"), ("rating", "numbers"), ("kind", "kinds of events")):
        if getattr(roles, role) is None:
            named = [name for name in unused if name_score(role, name) >= 1 and not _is_blank(sample[name])]
            sentences += [
                f"no {what}: {name} is named like one, but what stands in it does not read as {what}"
                if role == "time"
                else f"{name} is named like a {role}, but what stands in it does not read as {what}"
                for name in named[:1]
            ]
    outcomes = [name for name in unused if roles.rating is None and _is_outcome(sample[name])][:1]
    sentences += [
        f'{name} is 0 in some rows, and these count as events too (else: columns={{"rating": "{name}"}} and '
        f'weights={{"{name} > 0": 1}})'
        for name in outcomes
    ]
    blank = [name for name in unused if _is_blank(sample[name])]
    if blank:
        sentences.append(f"not used, because empty: {_shortened(blank)}")
    rest = [
        name
        for name in unused
        if name not in (*blank, *outcomes) and not any(f"{name} is named" in sentence for sentence in sentences)
    ]
    if rest:
        listed = ", ".join(rest[:8]) + (f" and {len(rest) - 8} more" if len(rest) > 8 else "")
        sentences.append(f"not used: {listed}; they describe neither the item nor the user nor the event")
    return sentences


def _is_outcome(column: pl.Series) -> bool:
    """Whether a column of outcomes, such as clicks and labels, holds both 0 and 1."""
    if not _OUTCOMES & set(words(column.name)) or not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        return False
    return set(column.drop_nulls().cast(pl.Float64).unique()) == {0.0, 1.0}


def _is_blank(column: pl.Series) -> bool:
    return column.null_count() == len(column)


def _guess_by_contents(sample: pl.DataFrame, free: list[str], roles: dict[str, str]) -> None:
    """Roles of columns without telling names, as in a file without a header."""
    unnamed = [name for name in free if re.fullmatch(r"column_\d+|_?\d+", name)]
    if len(unnamed) < len(sample.columns):  # among columns with names, one that counts the rows is an index
        unnamed = [name for name in unnamed if not _counts_rows(sample[name])]
    if "time" not in roles:
        for name in unnamed:
            if sample[name].dtype.is_numeric() and _fits("time", sample[name]):
                roles["time"] = name
                unnamed.remove(name)
                free.remove(name)
                break
    ids = [name for name in unnamed if sample[name].n_unique() > 1 or len(sample) == 1]
    ids = sorted(ids, key=lambda name: sample[name].dtype.is_float())  # coordinates and amounts are no ids
    kinds = [name for name in ids if "kind" not in roles and _holds_kinds(sample[name])]
    if kinds and len(ids) > 2:
        roles["kind"] = kinds[0]
        for names in (ids, unnamed, free):
            names.remove(kinds[0])
    needed = [role for role in ("user", "item") if role not in roles]
    if len(needed) <= len(ids):
        for role, name in zip(needed, ids):
            roles[role] = name
            free.remove(name)
            unnamed.remove(name)
    if "rating" not in roles:
        for name in unnamed:  # a category or a coordinate is the same in every event of an item
            if sample[name].dtype.is_numeric() and not ("item" in roles and _depends(sample, name, roles["item"])):
                roles["rating"] = name
                free.remove(name)
                break


def _holds_kinds(column: pl.Series) -> bool:
    """Whether the texts of a column are kinds of events by name, such as "view" and "buy"."""
    if column.dtype != pl.String or column.n_unique() > 20:
        return False
    return set(column.drop_nulls().str.to_lowercase().unique()) <= KNOWN_KINDS


def _counts_rows(column: pl.Series) -> bool:
    """Whether a column counts the rows, as programs write an index."""
    if not column.dtype.is_integer() or column.null_count() or len(column) < 2:
        return False
    return column[0] in (0, 1) and bool((column.diff().drop_nulls() > 0).all())


def _details(sample: pl.DataFrame, free: list[str], user: str, item: str) -> dict[str, tuple[str, ...]]:
    """Columns of the log that describe the item or the user: named so, or constant for each."""
    details: dict[str, tuple[str, ...]] = {"item_columns": (), "user_columns": ()}
    for name in free:
        parts = set(words(name))
        if parts & ITEM_DETAILS:
            side = "item_columns"
        elif parts & USER_DETAILS:
            side = "user_columns"
        elif _depends(sample, name, item):
            side = "item_columns"
        elif _depends(sample, name, user):
            side = "user_columns"
        else:
            continue
        details[side] += (name,)
    return details


def _depends(sample: pl.DataFrame, name: str, key: str) -> bool:
    """Whether nearly every repeated key has one value of the column, and the column is no constant."""
    groups = (
        sample.lazy()
        .select(key, name)
        .drop_nulls()
        .group_by(key)
        .agg(pl.len().alias("rows"), pl.col(name).n_unique().alias("values"))
        .filter(pl.col("rows") > 1)
        .collect()
    )
    return (
        len(groups) >= 20 and int((groups["values"] == 1).sum()) >= 0.95 * len(groups) and sample[name].n_unique() > 1
    )
