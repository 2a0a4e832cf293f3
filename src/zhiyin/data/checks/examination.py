"""The examination of a log by all checks."""

from __future__ import annotations

from collections.abc import Callable

from zhiyin.data.checks.event_checks import duplicate_events, low_ratings, unknown_kinds, weightless_events
from zhiyin.data.checks.facts import Facts
from zhiyin.data.checks.finding import SEVERITIES, Finding
from zhiyin.data.checks.item_checks import (
    constant_columns,
    id_mismatch,
    items_without_events,
    items_without_metadata,
    leaking_columns,
    popularity_concentration,
)
from zhiyin.data.checks.reading_checks import bad_rows, future_times, missing_times, mixed_encodings
from zhiyin.data.checks.split_checks import crowding_users, drift, too_little_data
from zhiyin.data.checks.time_checks import coarse_times, impossible_times, no_times, one_moment, time_gaps
from zhiyin.data.checks.user_checks import bot_like_users, one_event_users, placeholder_ids
from zhiyin.data.dataset import Dataset

CHECKS: tuple[Callable[[Facts], Finding | None], ...] = (
    bad_rows, missing_times, future_times, mixed_encodings, id_mismatch, too_little_data, no_times, impossible_times,
    one_moment, coarse_times, time_gaps, duplicate_events, weightless_events, low_ratings, unknown_kinds,
    one_event_users, bot_like_users, placeholder_ids, items_without_events, items_without_metadata,
    popularity_concentration, leaking_columns, constant_columns, crowding_users, drift,
)  # fmt: skip


def examine(data: Dataset, test: str | float | None = None) -> list[Finding]:
    """Everything the checks find in a log, the worst first.

    Parameters
    ----------
    test: the test part a later split by time will take, as `split` understands it.

    >>> import polars as pl
    >>> from zhiyin.data.dataset import Dataset
    >>> log = pl.DataFrame({"user": [1, 1, 2], "item": [1, 1, 2], "value": [1.0, 1.0, 5.0]})
    >>> [finding.name for finding in examine(Dataset.build(log))][:2]
    ['too-little-data', 'no-times']
    """
    facts = Facts(data, test)
    findings = [finding for check in CHECKS if (finding := check(facts)) is not None]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
