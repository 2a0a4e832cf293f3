"""Alignment of a catalogue's rows with a list of ids."""

from __future__ import annotations

import polars as pl


def align_rows(frame: pl.DataFrame | None, ids: pl.Series) -> pl.DataFrame:
    """A catalogue in the order of the ids: one row each, NULL where it does not know one."""
    wanted = pl.DataFrame({"id": ids})
    if frame is None:
        return wanted
    if len(frame) == len(ids) and frame["id"].equals(ids):
        return frame
    return wanted.join(frame.with_columns(pl.col("id").cast(ids.dtype)), on="id", how="left", maintain_order="left")
