"""Checks of the catalogue: items without events or description, popularity, leaking and constant columns."""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy.stats import rankdata

from zhiyin.data.checks.facts import Facts, format_ids, format_share
from zhiyin.data.checks.finding import Finding
from zhiyin.data.column_names import LEAKING


def items_without_events(facts: Facts) -> Finding | None:
    """Items of the catalogue without an event."""
    count = int((facts.per_item == 0).sum())
    if not count:
        return None
    return Finding(
        "items-without-events",
        "warning" if count > 0.5 * facts.data.n_items else "info",
        f"{count:,} of {facts.data.n_items:,} items ({format_share(count, facts.data.n_items)}) have no event",
        "only models that read their descriptions can recommend them; remove what is no longer on offer",
        count,
    )


def _undescribed(frame: pl.DataFrame, seen: np.ndarray) -> np.ndarray | None:
    """Codes with events whose row of the table is empty; None without a table."""
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
        f"{format_ids(facts.data.item_ids, blank)}",
        "add them to the items table; until then they are recommended by events alone",
        len(blank),
    )


def id_mismatch(facts: Facts) -> Finding | None:
    """Most ids of the log are not in the table, as where both write ids differently."""
    for role, frame, ids, counts in (
        ("item", facts.data.items, facts.data.item_ids, facts.per_item),
        ("user", facts.data.users, facts.data.user_ids, facts.per_user),
    ):
        seen = counts > 0
        blank = _undescribed(frame, seen)
        if blank is None or len(blank) < 0.5 * seen.sum():
            continue
        other = np.flatnonzero(~seen)
        written = f", the table {format_ids(ids, other, 2)}" if len(other) else ""
        return Finding(
            "id-mismatch",
            "error",
            f"the {role}s table knows {format_share(float(seen.sum() - len(blank)), seen.sum())} of the log's: "
            f"the log writes {format_ids(ids, blank, 2)}{written}",
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
        has_value = value.is_not_null().to_numpy()
        rated = np.bincount(facts.item[has_value], minlength=len(seen))
        total = np.bincount(facts.item[has_value], value.drop_nulls().to_numpy(), minlength=len(seen))
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
    """Columns of items and users with one value, or none."""
    constant = []
    for which, frame in (("items", facts.data.items), ("users", facts.data.users)):
        if len(frame) < 2:
            continue
        plain = [name for name, dtype in frame.schema.items() if name != "id" and not dtype.is_nested()]
        constant += [f"{which}.{name}" for name in plain if frame[name].n_unique() == 1]
    if not constant:
        return None
    return Finding(
        "constant-columns",
        "info",
        f"these columns have one value throughout and tell nothing: {', '.join(constant)}",
        "leave them out, or check that they were read from the right column",
        len(constant),
    )
