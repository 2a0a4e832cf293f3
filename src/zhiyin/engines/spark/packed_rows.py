"""Rows on their way between workers, packed: a cell of bytes a column and target, not a row of Spark for each.

Spark turns every row of a shuffle from Arrow into its own form and back; of packed rows there are as many as there are
pairs of a sender and a target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def schema_of(columns: Sequence[str]) -> str:
    """The schema of an exchange of packed rows with these columns."""
    return ", ".join(["target int", *(f"{name} binary" for name in columns)])


def pack(targets: np.ndarray, columns: Mapping[str, np.ndarray]) -> Iterator[pa.RecordBatch]:
    """Rows grouped by target, in their order within each. targets: int[n]; columns: arrays of n."""
    import pyarrow as pa

    if not len(targets):
        return
    order = np.argsort(targets, kind="stable")
    grouped = targets[order]
    starts = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]]))
    stops = np.append(starts[1:], len(grouped))
    sorted_columns = {name: array[order] for name, array in columns.items()}
    for start, stop in zip(starts.tolist(), stops.tolist()):
        cells = [pa.array([array[start:stop].tobytes()], pa.binary()) for array in sorted_columns.values()]
        target = pa.array([int(grouped[start])], pa.int32())
        yield pa.RecordBatch.from_arrays([target, *cells], names=["target", *sorted_columns])


def unpack(rows: pa.Table, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The columns of packed rows, end to end in the order of the rows. columns: type by name."""
    return {
        name: np.concatenate(
            [np.zeros(0, dtype), *(np.frombuffer(cell.as_buffer(), dtype) for cell in rows.column(name))]
        )
        for name, dtype in columns.items()
    }
