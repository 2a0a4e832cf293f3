"""Limits that several rooms keep to: what a request may hold, a store keeps and a list is made of."""

from __future__ import annotations

from zhiyin.core.durations import SECOND, UNITS

# Characters of an id, and of the kind of an event.
MAX_ID_CHARS, MAX_KIND_CHARS = 256, 64
# Columns of one item or user.
MAX_COLUMNS = 256
# The largest whole number of a column: float64 holds every one up to it.
MAX_INTEGER = 2**53
# The largest value of an event, of either sign: the largest safe integer of I-JSON (RFC 7493). No float64 lies between
# it and the next whole number, so that values written as JSON, as text and as floats have one bound.
LARGEST_VALUE = 2**53 - 1
# Items of one list; ids in one field of a request, such as those to be left out.
MAX_ITEMS, MAX_IDS = 1_000, 10_000
# Times of events, microseconds UTC: the years 1971 to 2128.
EARLIEST, LATEST = 31_536_000 * SECOND, 5_000_000_000 * SECOND
# How long a key may live, microseconds.
MAX_LIFETIME_MICROSECONDS = 100 * UNITS["y"]
# The largest weight of a link between users.
MAX_LINK_WEIGHT = 1e6
