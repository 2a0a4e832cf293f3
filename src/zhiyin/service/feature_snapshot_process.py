"""The process that makes a snapshot of a feature index: `python -m zhiyin.service.feature_snapshot_process`.

It is told what to do in JSON by its standard input, runs at a low priority, and ends with the service that
started it. It makes the snapshot of the newest events from that of before where that still holds, else from the log.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import polars as pl

from zhiyin.core.absent_modules import AbsentModules
from zhiyin.core.run import log
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.ranking.live_index import IndexState
from zhiyin.service.feature_snapshot import (
    FeatureSnapshots,
    basis_of,
    holds,
    read_snapshot,
    read_waiting,
    sweep,
    write_snapshot,
)
from zhiyin.service.training_process import end_with_parent
from zhiyin.store.store import Store

NICENESS = 10
# Events may be deleted while a snapshot is made.
TRIES = 3
# Events that are read at once.
BATCH_EVENTS = 100_000


def make_snapshot(bundles: Bundles, version: int, store: Store, weights: dict[str, float]) -> int:
    """Make the snapshot of a version. Returns the number of events that were read; -1: nothing was written, since
    events were deleted meanwhile, or since the version has no index."""
    from zhiyin.service.feature_index_updater import COLUMNS, MAX_INDEX_EVENTS, MAX_WAITING_EVENTS, encode_events
    from zhiyin.service.loaded_version import LoadedVersion
    from zhiyin.service.version_view import View

    snapshots = FeatureSnapshots(bundles, store, weights)
    sweep(snapshots.folder, bundles.versions())
    basis = basis_of(store)
    loaded = LoadedVersion(bundles.get(version), {}, weights, store)
    if loaded.index is None:
        return -1
    changes, seq = store.changes_since("items")
    view = View.of(loaded, changes, seq, warm=False)
    path = snapshots.path(version)
    before = read_snapshot(path, store, view)
    if before is None:
        index, count, after = loaded.index.learned.branch(), 0, loaded.index.learned_seq
        waiting = pl.DataFrame()
    else:
        index, count, after = before.copies[0], before.events, before.seq
        waiting = read_waiting(store, before.waiting, COLUMNS)
        if len(waiting):
            known, waiting = encode_events(waiting, view)
            index.append(known)
    n_read = 0
    for batch in _batches(store, after, basis["last"], COLUMNS):
        known, unknown = encode_events(batch, view)
        index.append(known)
        waiting = pl.concat([waiting, unknown], how="diagonal").tail(MAX_WAITING_EVENTS)
        n_read, count, after = n_read + len(batch), count + len(batch), int(batch["seq"][-1])
        if count >= MAX_INDEX_EVENTS:
            break
    if not index.recent.n_events or not holds(basis, store):
        return -1
    basis = basis if after == basis["last"] else basis | _last(store, after)
    seqs = waiting["seq"].to_list() if len(waiting) else []
    write_snapshot(path, IndexState(index, after, count), seqs, view, basis)
    return n_read


def _last(store: Store, seq: int) -> dict[str, Any]:
    """The basis at an earlier event."""
    from zhiyin.store.records import hash_of

    return {"last": seq, "last_id": hash_of(str(store.events_by_seq([seq], ("seq", "id"))["id"][0]))}


def _batches(store: Store, after: int, until: int, columns: tuple[str, ...]) -> Iterator[pl.DataFrame]:
    while after < until and len(batch := store.events(after, BATCH_EVENTS, columns)):
        after = int(batch["seq"][-1])
        batch = batch.filter(pl.col("seq") <= until)
        if len(batch):
            yield batch


def main() -> None:
    end_with_parent(os.getppid())
    os.nice(NICENESS)
    told = json.loads(sys.stdin.buffer.read())
    log.setLevel("ERROR")  # what a version lacks, its service has said
    with AbsentModules("pandas", "sklearn"), closing(Store(told["store"])) as store:
        for _ in range(TRIES):
            if make_snapshot(Bundles(told["bundles"]), told["version"], store, told["weights"]) >= 0:
                return
    sys.exit(1)


if __name__ == "__main__":
    main()
