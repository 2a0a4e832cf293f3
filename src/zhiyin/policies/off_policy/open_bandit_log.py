"""Logs in the form of the Open Bandit Dataset: a CSV file with one row per item shown at a position."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.policies.off_policy.logged_decisions import FloatArray, LoggedDecisions

_COLUMNS: dict[str, type[pl.DataType]] = {
    "timestamp": pl.String, "item_id": pl.Int32, "position": pl.Int32, "click": pl.Float64,
    "propensity_score": pl.Float64,
}  # fmt: skip
_REMEDIES = {
    "item_id": "items are codes from 0",
    "position": "positions are numbers, such as 1, 2 and 3",
    "click": "clicks are 0 or 1",
    "propensity_score": "propensities are above 0 and at most 1",
    "timestamp": "times are text that sorts by time, such as 2019-11-24 00:00:17.004101+00:00",
}


@dataclass(frozen=True)
class OpenBanditLog:
    """What an Open Bandit file logs, in order of time.

    Parameters
    ----------
    items: int32[n], codes. positions: int32[n], from 0.
    rewards: float64[n], clicks. propensities: float64[n], exactly as in the file.
    n_items, n_positions: one more than the largest item, or as given; number of positions in the file.
    """

    items: np.ndarray
    positions: np.ndarray
    rewards: FloatArray
    propensities: FloatArray
    n_items: int
    n_positions: int

    def __len__(self) -> int:
        return len(self.rewards)

    def decisions(self, target: FloatArray) -> LoggedDecisions:
        """The rows as decisions with the target policy's probabilities.

        target: float64[n_items, n_positions] or float64[n_items], the probability of each item (at each position).
        """
        target = np.asarray(target, dtype=np.float64)
        if target.shape not in ((self.n_items, self.n_positions), (self.n_items,)):
            raise DataError(
                f"target has shape {target.shape} for {self.n_items} items and {self.n_positions} positions",
                remedy="give probabilities [n_items, n_positions] or [n_items]",
            )
        probabilities = target[self.items] if target.ndim == 1 else target[self.items, self.positions]
        return LoggedDecisions(self.rewards, self.propensities, probabilities)


def read_open_bandit(path: str | Path, n_items: int | None = None) -> OpenBanditLog:
    """Read a log with the columns timestamp, item_id, position, click and propensity_score; others are not loaded.

    n_items: size of the catalogue; None: one more than the largest item in the file. Raises DataError naming file, line
    and column of the first value that cannot be.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("there is no such file", file=path, remedy="give the path of a CSV file")
    header = pl.read_csv(path, n_rows=0, infer_schema=False).columns
    for name in _COLUMNS:
        if name not in header:
            raise DataError("a column is missing", file=path, column=name, remedy=f"columns there: {', '.join(header)}")
    try:
        frame = pl.scan_csv(path, schema_overrides=_COLUMNS).select(list(_COLUMNS)).collect(engine="streaming")
    except pl.exceptions.ComputeError as error:
        raise _unreadable(path, str(error)) from None
    _check(frame, path, n_items)
    frame = frame.sort("timestamp", maintain_order=True)
    positions = frame["position"].rank("dense").to_numpy().astype(np.int32) - 1
    items = frame["item_id"].to_numpy()
    size = n_items if n_items is not None else int(items.max(initial=-1)) + 1
    return OpenBanditLog(
        items, positions, frame["click"].to_numpy(), frame["propensity_score"].to_numpy(),
        size, int(positions.max(initial=-1)) + 1,
    )  # fmt: skip


def _check(frame: pl.DataFrame, path: Path, n_items: int | None) -> None:
    limit = np.iinfo(np.int32).max if n_items is None else n_items - 1
    propensity, item = pl.col("propensity_score"), pl.col("item_id")
    valid: dict[str, pl.Expr] = {
        "timestamp": pl.lit(True),
        "item_id": item.is_between(0, limit),
        "position": pl.lit(True),
        "click": pl.col("click").is_finite(),
        "propensity_score": (propensity > 0) & (propensity <= 1),
    }
    for name, condition in valid.items():
        good = frame.select((pl.col(name).is_not_null() & condition).fill_null(False).alias("good"))["good"]
        if not good.all():
            row = int(good.arg_min() or 0)
            raise DataError(
                f"the value {frame[name][row]!r} cannot be", file=path, row=row + 2, column=name, remedy=_REMEDIES[name]
            )


def _unreadable(path: Path, reason: str) -> DataError:
    """The error of a file that does not parse: its first cell that is no number, where there is one."""
    try:
        frame = pl.read_csv(path, columns=list(_COLUMNS), infer_schema=False)
    except pl.exceptions.PolarsError as error:
        return DataError(f"the file is no CSV: {error}", file=path, remedy="give a comma-separated file with a header")
    for name, kind in _COLUMNS.items():
        good = frame.select(pl.col(name).cast(kind, strict=False).is_not_null() | pl.col(name).is_null())[name]
        if not good.all():
            row = int(good.arg_min() or 0)
            return DataError(
                f"{frame[name][row]!r} is no number", file=path, row=row + 2, column=name, remedy=_REMEDIES[name]
            )
    return DataError(
        f"the file cannot be read: {reason}", file=path, remedy="give a comma-separated file with a header"
    )
