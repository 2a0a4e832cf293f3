"""Checks of what could not be read, or was garbled."""

from __future__ import annotations

import polars as pl

from zhiyin.data.checks.facts import Facts, format_share
from zhiyin.data.checks.finding import Finding

# U+FFFD, and UTF-8 read as Windows-1252: "Ã©" for "é", "â€™" for an apostrophe, "Â£" for "£".
_GARBLED = "\ufffd|Ã[\u0080-\u00bf‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€|Â[\u00a0-\u00bf]"


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
        f"{count:,} of {whole:,} rows ({format_share(count, whole)}) are of no use and were set aside: {listed}",
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
    encoding_notes = [note for note in data.notes if "not UTF-8" in note]
    encoding_name = data.assumed.get("encoding", "cp1252").upper().replace("CP", "WINDOWS-")
    garbled: dict[str, int] = {}
    for which, frame in (("items", data.items), ("users", data.users)):
        text = [name for name, dtype in frame.schema.items() if dtype == pl.String]
        hits = frame.select(pl.col(text).str.contains(_GARBLED).sum()) if text else pl.DataFrame()
        garbled |= {f"{which}.{name}": int(hits[name][0]) for name in text if hits[name][0]}
    if not encoding_notes and not garbled:
        return None
    listed = ", ".join(f"{count:,} in {column}" for column, count in garbled.items())
    return Finding(
        "mixed-encodings",
        "warning",
        "; ".join([*encoding_notes, *([f"garbled characters such as “Ã©” or “\ufffd”: {listed}"] if garbled else [])]),
        f"save every file as UTF-8 from its source: iconv -f {encoding_name} -t UTF-8 old.csv > new.csv",
        sum(garbled.values()) or None,
    )
