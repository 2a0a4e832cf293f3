"""Texts as times: the format that reads most of a column, the order of days and months, names of zones."""

from __future__ import annotations

import dataclasses

import polars as pl

from zhiyin.core.durations import SECOND
from zhiyin.data.time_formats import SAMPLE_VALUES, Times, nulls, parse_format, spread
from zhiyin.data.time_zones import AMBIGUOUS_ZONES, OFFSET_AT_END, ZONE_OFFSET_MINUTES, in_zone, split_zone_names

_YEAR_FIRST = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%Y%m%d",
    "%Y年%m月%d日",
    "%Y年%m月%d",
    "%Y년 %m월 %d일",
    "%G-W%V-%u",
)
_NAMED = (
    "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d/%b/%Y", "%b %d %Y", "%B %d %Y", "%d %b %y", "%d-%b-%y", "%Y-%b-%d",
)  # fmt: skip
_CLOCKS = (
    "%H:%M:%S%.f",
    "%H:%M",
    "%I:%M %p",
    "%I:%M:%S %p",
    "%H%M%S",
    "%H时%M分%S秒",
    "%H.%M.%S",
    "%H.%M",
    "%I.%M.%S%.f %p",
)
_WHOLE = ("%Y%m%d%H%M%S", "%Y%m%d%H%M", "%b %d %H:%M:%S %Y")
_PLAIN = "%Y-%m-%d %H:%M:%S%.f"
_ZONE = r"(:\d{2}(?:\.\d+)?)\s?(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$"
_NUMERIC_DATE = r"^(\d{1,2})([/.\-])(\d{1,2})[/.\-](\d{2}|\d{4})(?:\D|$)"
_ZONE_BEFORE_YEAR = r"(\d+:\d+:\d+) ([A-Z]{3,5}) (\d{4})$"


def read_texts(text: pl.Series, day_first: bool | None, zone: str | None = None) -> Times:
    """Times of texts, those with the name of a zone at their end among them: "10:00 CET", "10:00 Europe/Berlin"."""
    if text.str.contains(_ZONE_BEFORE_YEAR).any():  # as `date` of Unix writes
        text = text.str.replace(_ZONE_BEFORE_YEAR, "$3 $1 $2")
    plain, named = split_zone_names(text)
    if named is None:
        return _parse_unnamed(text, day_first, zone)
    parsed = _parse_unnamed(plain, day_first, None)
    times, notes = parsed.times, []
    for name in named.drop_nulls().unique().sort().to_list():
        rows = (named == name).fill_null(False)
        local, minutes = times.filter(rows), ZONE_OFFSET_MINUTES.get(name)
        if name in AMBIGUOUS_ZONES and zone is not None:
            local = in_zone(local, zone)
        elif minutes is not None:
            local = local - minutes * 60 * SECOND
        else:
            local = in_zone(local, name)
        if name in AMBIGUOUS_ZONES and zone is None:
            usual, other, example = AMBIGUOUS_ZONES[name]
            notes.append(
                f"{text.name}: {name} may be {usual} or {other}, read as {usual} "
                f'(else: zone = "{example}" under [read] or by --assume)'
            )
        times = times.scatter(rows.arg_true(), local)
    if zone is not None:
        bare = (named.is_null() & ~text.str.contains(OFFSET_AT_END)).fill_null(False)
        times = times.scatter(bare.arg_true(), in_zone(times.filter(bare), zone))
    return dataclasses.replace(parsed, times=times, notes=tuple(notes))


def _parse_unnamed(text: pl.Series, day_first: bool | None, zone: str | None) -> Times:
    unread = text
    times = nulls(text)
    open_order, order, mixed = "", None, None
    for _ in range(6):
        sample = spread(unread.drop_nulls(), SAMPLE_VALUES)
        if not len(sample):
            break
        unread, sample = _normalised(unread, sample)
        if order is None and not open_order and bool(sample.str.contains(_NUMERIC_DATE).any()):
            order, open_order, mixed = _day_order(unread, day_first)
        form, zoned = _best_format(sample, order)
        if form is None:
            break
        parsed = parse_format(unread, form, zoned)
        parsed = parsed if zoned else in_zone(parsed, zone)
        times = times.fill_null(parsed) if times.null_count() < len(times) else parsed
        if parsed.null_count() == unread.null_count():
            break
        remaining = unread.set(parsed.is_not_null(), None)
        if remaining.null_count() == unread.null_count():
            break
        unread = remaining
    return Times(times, open_order, order, mixed_orders=mixed)


def _normalised(text: pl.Series, sample: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Texts without what formats do not know: names of weekdays, commas, an hour without minutes."""
    for seen, changes in _REWRITES:
        if bool(sample.str.contains(seen).any()):
            for pattern, by in changes:
                text, sample = text.str.replace_all(pattern, by), sample.str.replace_all(pattern, by)
    return text, sample


# Names of months in German, French, Spanish and Italian, as words in English.
_MONTHS = {
    "Jan": "januar|jänner|jän|janvier|janv|enero|gennaio|gen", "Feb": "februar|février|févr|febrero|febbraio",
    "Mar": "märz|mär|mars|marzo", "Apr": "avril|avr|abril|abr|aprile", "May": "mai|mayo|maggio|mag",
    "Jun": "juni|juin|junio|giugno|giu", "Jul": "juli|juillet|juil|julio|luglio|lug",
    "Aug": "août|agosto|ago", "Sep": "septembre|sept|septiembre|settembre|set",
    "Oct": "oktober|okt|octobre|octubre|ottobre|ott",
    "Nov": "novembre|noviembre", "Dec": "dezember|dez|décembre|déc|diciembre|dic|dicembre",
}  # fmt: skip
_MONTH = [
    (rf"(?i)(\d)\.? (?:de )?(?:{names})\.?(?: de)? (\d)", rf"${{1}} {month} ${{2}}") for month, names in _MONTHS.items()
]

# What is done to texts of which a sample holds a pattern.
_REWRITES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (r"^\[.*\]$", ((r"^\[(.*)\]$", "$1"),)),  # logs of web servers
    (
        r"\d[时時]\d",
        (
            (r"(\d)[时時](\d{1,2})分(\d{1,2})秒", "${1}:${2}:${3}"),
            (r"(\d)[时時](\d{1,2})分?$", "${1}:${2}"),
        ),
    ),
    (r"\(.*\)$", ((r"\s*\([\p{L} ]+\)$", ""),)),  # "... GMT+0100 (Central European Standard Time)"
    (
        r"(?:UTC|GMT)\s?[+-]\d",
        (
            (r"\s?(?:UTC|GMT)\s?([+-])(\d)$", " ${1}0${2}:00"),
            (r"\s?(?:UTC|GMT)\s?([+-]\d{2}):?(\d{2})?$", " ${1}:${2}"),
            (r"([+-]\d{2}):$", "${1}:00"),
        ),
    ),
    (
        r"上午|下午|오전|오후",
        (
            (r"\s?(?:上午|오전)\s?(\d{1,2}:\d{2}(?::\d{2})?)", " $1 AM"),
            (r"\s?(?:下午|오후)\s?(\d{1,2}:\d{2}(?::\d{2})?)", " $1 PM"),
        ),
    ),
    (r"\d(?:st|nd|rd|th)\b", ((r"(\d)(?:st|nd|rd|th)\b", "$1"),)),
    (r"(?i)\d\.? (?:de )?(?:" + "|".join(_MONTHS.values()) + r")\b", tuple(_MONTH)),
    (r"\d{1,2}\. \p{L}{3}", ((r"(\d{1,2})\. (\p{L}{3})", "$1 $2"), (r"(\p{L}{3})\. ", "$1 "))),
    (r"^\p{L}{3} \p{L}{3} \d{1,2} \d{4} ", ((r"^\p{L}{3} (\p{L}{3} \d{1,2} \d{4} )", "$1"),)),
    (r"^\p{L}{3,9},? ", ((r"^(?i:mon|tue|wed|thu|fri|sat|sun)\p{L}*,? ", ""),)),
    (r"[+-]\d{4} \d{4}$", ((r"(\d+:\d+:\d+) ([+-]\d{4}) (\d{4})$", "${3} ${1} ${2}"),)),  # "03:08:59 -0700 2023"
    (r"\p{L}{3,9}\.? \d{1,2},|\d{1,2} \p{L}{3,9}\.?,", ((",", ""),)),
    (r":\d{2},\d{1,9}$", ((r",(\d{1,9})$", ".$1"),)),
    (r"^\d{4}\D\d{1,2}\D\d{1,2}[ T]\d{1,2}$", ((r"^(\d{4}\D\d{1,2}\D\d{1,2}[ T]\d{1,2})$", "$1:00"),)),
    (r"^\d{1,2}\D\d{1,2}\D\d{2,4} \d{1,2}$", ((r"^(\d{1,2}\D\d{1,2}\D\d{2,4} \d{1,2})$", "$1:00"),)),
    (r"\d[T_]\d", ((r"(\d)[T_](\d)", "$1 $2"),)),
    (r"^\d{1,2}/\p{L}{3}/\d{4}:", ((r"^(\d{1,2}/\p{L}{3}/\d{4}):", "$1 "),)),  # logs of Apache
    (r"^\d{4}:\d{2}:\d{2}\b", ((r"^(\d{4}):(\d{2}):(\d{2})\b", "$1-$2-$3"),)),  # pictures
    (r",", ((r"^([^,]*\d),\s*(\d)", "$1 $2"),)),
    (r"(?i)\d\s?[ap]\.?m\.?$", ((r"(?i)\s?([ap])\.?m\.?$", " ${1}m"),)),
    (r"  ", ((r" {2,}", " "),)),
)


def _day_order(text: pl.Series, day_first: bool | None) -> tuple[bool | None, str, tuple[int, int] | None]:
    """Whether the day comes first in dates such as 03/04/2024, by the whole column.

    Returns
    -------
    The order, None where a two-digit year is first, as in 23/11/22; the message where it is ambiguous; where both
    orders occur, a row with the day first and one with the month first.
    """
    parts = text.str.extract_groups(_NUMERIC_DATE).struct.unnest().with_row_index("row").drop_nulls()
    row, first, mark, second, last = (parts.to_series(at) for at in range(5))
    first, second = first.cast(pl.Int32), second.cast(pl.Int32)
    if not len(parts):
        return None, "", None
    short = last.str.len_bytes() == 2
    if short.all() and _is_year(first, last):
        return None, "", None
    days_first, days_second = (first > 12) & (second <= 12), (second > 12) & (first <= 12)
    surplus = int(days_first.sum()) - int(days_second.sum())
    if days_first.any() and days_second.any():
        mixed = int(row[days_first.arg_max()]), int(row[days_second.arg_max()])  # type: ignore[index]
        order = day_first if day_first is not None else surplus > 0 if surplus else mark[0] != "/"
        return order, "", mixed
    if surplus:
        return surplus > 0, "", None
    if day_first is not None:
        return day_first, "", None
    either = ((first <= 12) & (second <= 12) & (first != second)).arg_true()
    if not len(either):
        return mark[0] != "/", "", None
    at = int(either[0])
    chosen = mark[at] != "/"
    example = f"{first[at]}{mark[at]}{second[at]}{mark[at]}{last[at]}"
    day, month = (first[at], second[at]) if chosen else (second[at], first[at])
    read = f"day {day}, month {month}"
    return chosen, f"{text.name} = {example!r} may be day {month}, month {day} or {read}, read as {read}", None


def _is_year(first: pl.Series, last: pl.Series) -> bool:
    """Whether the first of three numbers is the year: more than a day, or of few values where the last has many."""
    days = last.cast(pl.Int32)
    if int(first.max()) > 31:  # type: ignore[arg-type]
        return True
    return int(days.max()) <= 31 and int(first.max()) > 12 and 3 * first.n_unique() < days.n_unique()  # type: ignore[arg-type]


def _best_format(sample: pl.Series, day_first: bool | None) -> tuple[str | None, bool]:
    """The format that reads most of a sample, and whether a zone follows; None where none reads anything."""
    zoned = float(sample.str.contains(_ZONE).mean() or 0) > 0.5  # type: ignore[arg-type]
    best, hits = None, 0
    for zone in (zoned, not zoned):
        for form in _candidates(sample, day_first):
            read = len(sample) - parse_format(sample, form, zone).null_count()
            if read > hits:
                best, hits, zoned = form, read, zone
            if hits == len(sample):
                return best, zoned
        if hits:
            break
    return best, zoned


def _candidates(sample: pl.Series, day_first: bool | None) -> list[str]:
    """Formats to try, the likeliest first."""
    marks = [mark for mark in "/.-" if sample.str.contains(rf"\d{{1,2}}\{mark}\d{{1,2}}\{mark}\d{{2,4}}").any()]
    orders = {True: ("%d{0}%m{0}%Y", "%d{0}%m{0}%y"), False: ("%m{0}%d{0}%Y", "%m{0}%d{0}%y"), None: ("%y{0}%m{0}%d",)}
    dates = [form.format(mark) for mark in marks for form in orders[day_first]]
    letters = bool(sample.str.contains(r"\p{L}{3}").any())
    dates = [*_YEAR_FIRST, *dates, *(_NAMED if letters else ())]
    spaces = bool(sample.str.contains(r" ").any())
    clocks = _CLOCKS if spaces else ()
    both = [f"{date} {clock}" for clock in clocks for date in dates]
    return [*both, *dates, *_WHOLE] if spaces else [*dates, *_WHOLE, *both]
