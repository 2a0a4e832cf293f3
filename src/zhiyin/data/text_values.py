"""Values of events that are made of their texts: the contract between reading and what knows languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import polars as pl


class TextValues(Protocol):
    """Fills in values of events by their texts. column: the column of the log that holds the texts."""

    column: str

    def fill(self, events: pl.DataFrame) -> tuple[pl.DataFrame, list[str], Mapping[str, Any]]:
        """Events without their column `text` and with `value`; what was done, in sentences; what knows it again, as
        JSON values and arrays."""
