"""The events of a store as shards, beside its export: see `data/shard_files.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from zhiyin.core.run import Advance
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.dataset import described
from zhiyin.data.event_schema import StorePosition
from zhiyin.data.ids import Ids
from zhiyin.data.shard_files import ShardManifest, ShardWriter, write_tables
from zhiyin.data.store_snapshot import FileData, merge_snapshot
from zhiyin.store.records import hash_of
from zhiyin.store.store import Store
from zhiyin.store.training_export import read_catalogue


def export_shards(
    store: Store,
    folder: Path,
    n_shards: int,
    rows_per_part: int,
    advance: Advance,
    types: CatalogueSchema | None = None,
) -> None:
    """Write the events of the store, and the tables of users and items, into a folder that exists.

    A user who is forgotten meanwhile is left out: all that was written is then written again.

    Parameters
    ----------
    types: of columns of items and users that the settings declare.
    """
    writer = ShardWriter(folder, n_shards, rows_per_part)
    last, seq = store.last_seq, 0
    forgotten_before = store.forgotten_by_hash()
    while len(batch := store.events(seq, rows_per_part)):
        seq = int(batch["seq"][-1])
        batch = batch.filter(pl.col("seq") <= last)  # what arrives meanwhile is left out
        if len(batch):
            writer.append(batch)
            advance(len(batch), "events")
        if seq >= last:
            break
    shards = writer.finish()
    catalogue = read_catalogue(store)
    no_events = catalogue.events.select("user", "item", "time")
    merged, hidden, known, _ = merge_snapshot(FileData(no_events, None, None, None), catalogue, types)
    users, items = (
        described(Ids.of(counts.frame()["id"], *([] if frame is None else [frame["id"]])), frame)
        for counts, frame in ((writer.users, merged.users), (writer.items, merged.items))
    )
    forgotten = store.forgotten_by_hash()
    late = {key for key, time in forgotten.items() if forgotten_before.get(key) != time}
    if late:
        gone = [user for user in users["id"] if hash_of(user) in late]
        shards = writer.without(shards, gone)
        users = users.filter(~pl.col("id").is_in(gone))
    candidates = ~items["id"].is_in(hidden.implode()).to_numpy()
    counts = items.join(writer.items.frame(), on="id", how="left", maintain_order="left")["n"].fill_null(0).to_numpy()
    write_tables(folder, users, items, candidates, counts.astype(np.int64))
    kinds = tuple(writer.kinds.frame()["id"].sort().to_list())
    ShardManifest(
        shards, kinds, True, writer.has_values, known, position=StorePosition(store.identity, last)
    ).write(folder)  # fmt: skip
