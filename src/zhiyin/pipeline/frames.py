"""Catalogues brought into the types and the order of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl


def fitting(frame: pl.DataFrame, schema: Mapping[str, Any]) -> pl.DataFrame:
    """A frame in the types of another; what does not fit becomes NULL. Columns the other lacks stay as they are."""
    casts = []
    for name, dtype in frame.schema.items():
        wanted = schema.get(name, dtype)
        if wanted == dtype:
            continue
        if isinstance(dtype, pl.List) and wanted == pl.String:  # several values are written a|b
            casts.append(pl.col(name).list.eval(pl.element().cast(pl.String)).list.join("|"))
        elif dtype == pl.String and wanted.is_temporal():
            moment = pl.col(name).str.to_datetime(strict=False, time_zone=getattr(wanted, "time_zone", None))
            casts.append(moment.cast(wanted, strict=False))
        elif isinstance(wanted, pl.List) and not isinstance(dtype, pl.List):
            casts.append(pl.lit(None, dtype=wanted).alias(name))
        else:
            casts.append(pl.col(name).cast(wanted, strict=False))
    return frame.with_columns(casts)


def aligned(frame: pl.DataFrame | None, ids: pl.Series) -> pl.DataFrame:
    """A catalogue in the order of the ids: one row each, NULL where it does not know one."""
    wanted = pl.DataFrame({"id": ids})
    if frame is None:
        return wanted
    if len(frame) == len(ids) and frame["id"].equals(ids):
        return frame
    return wanted.join(frame.with_columns(pl.col("id").cast(ids.dtype)), on="id", how="left", maintain_order="left")
