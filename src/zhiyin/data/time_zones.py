"""Time zones: names and abbreviations at the end of texts, and clock times of a zone as UTC."""

from __future__ import annotations

import polars as pl

from zhiyin.data.time_formats import SAMPLE_VALUES, spread

# Abbreviations of zones: minutes east of UTC. Those that several zones have, with what else each may be.
ZONE_OFFSET_MINUTES = {
    "CET": 60, "CEST": 120, "MEZ": 60, "MESZ": 120, "EET": 120, "EEST": 180, "WET": 0, "WEST": 60, "MSK": 180,
    "EST": -300, "EDT": -240, "CDT": -300, "MST": -420, "MDT": -360, "PST": -480, "PDT": -420, "AKST": -540,
    "HST": -600, "BRT": -180, "JST": 540, "KST": 540, "HKT": 480, "SGT": 480, "ICT": 420, "WIB": 420, "PKT": 300,
    "AEST": 600, "AEDT": 660, "ACST": 570, "AWST": 480, "NZST": 720, "NZDT": 780, "SAST": 120, "EAT": 180,
    "CST": -360, "IST": 330, "BST": 60,
}  # fmt: skip
AMBIGUOUS_ZONES = {
    "CST": ("UTC-6", "UTC+8", "Asia/Shanghai"), "IST": ("UTC+5:30", "UTC+1 or UTC+2", "Europe/Dublin"),
    "BST": ("UTC+1", "UTC+6", "Asia/Dhaka"),
}  # fmt: skip
_NAMED_ZONE = r"\s*\[?([A-Z][A-Za-z_]+(?:/[A-Za-z_+\-0-9]+)+|[A-Z]{3,5})\]?$"
_OFFSET_BEFORE = r"(?:Z|[+-]\d{2}:?(?:\d{2})?)\s*\[?[A-Z][A-Za-z_/]+\]?$"


OFFSET_AT_END = r"(?:Z|UTC|GMT|[+-]\d{2}:?(?:\d{2})?)(?:\s*\[.*\])?$"


def is_zone(name: str) -> bool:
    """Whether a text is the name of a time zone, such as "Europe/Berlin" or "UTC"."""
    try:
        pl.Series([0]).cast(pl.Datetime("us")).dt.replace_time_zone(name)
    except pl.exceptions.PolarsError:
        return False
    return True


def in_zone(times: pl.Series, zone: str | None) -> pl.Series:
    """What a clock in a zone showed, as microseconds since 1970 by that clock, as microseconds UTC.

    An hour that came twice is taken as the first of both; one that never was is null.
    """
    if zone is None:
        return times
    local = times.cast(pl.Datetime("us")).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return local.dt.convert_time_zone("UTC").dt.epoch("us")


def split_zone_names(text: pl.Series) -> tuple[pl.Series, pl.Series | None]:
    """Texts without the names of zones at their ends, and these names; None where no text has one that is known."""
    sample = spread(text.drop_nulls(), SAMPLE_VALUES)
    if not bool(sample.str.contains(_NAMED_ZONE).any()):
        return text, None
    named = text.str.extract(_NAMED_ZONE, 1)
    written = named.drop_nulls().unique().to_list()
    names = [name for name in written if name in ZONE_OFFSET_MINUTES or ("/" in name and is_zone(name))]
    is_known = named.is_in(names).fill_null(False)
    if not is_known.any():
        return text, None
    plain = pl.select(
        pl.when(is_known).then(text.str.replace(_NAMED_ZONE, "")).otherwise(text).alias(text.name)
    ).to_series()
    has_offset = text.str.contains(_OFFSET_BEFORE).fill_null(False)  # "+01:00[Europe/Berlin]" says it already
    return plain, named.set(~is_known | has_offset, None)
