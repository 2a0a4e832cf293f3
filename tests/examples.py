"""How many examples of a property a test takes."""

from __future__ import annotations

from hypothesis import settings

USUAL = 60


def examples(count: int) -> int:
    """This many of a property; of the profile `fast` its share, a quarter."""
    return max(1, count * settings.default.max_examples // USUAL)
