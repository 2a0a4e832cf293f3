"""Snapshots of the feature index: what a version's index knows of the store's log, in a file that all processes map.

    models/bundles/.feature-index/0007-1f3a9c2e.idx    of version 7 and one store

A start reads the events behind the snapshot alone. A snapshot is made by a process of its own
(`feature_snapshot_process`), one at a time for a folder, so that reading the log disturbs no answer; it begins with the
snapshot before, where that still holds. It is whole or not there, and left out where anything that it is made from has
changed: the version, its events' weights, the store (also one that was restored, by the id of its last event), users
who were forgotten, events that were deleted for their age (the oldest go first, so the oldest one must be there).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.atomic_files import draft_path
from zhiyin.core.errors import DataError
from zhiyin.core.mapped_arrays import MappedFile, write_arrays
from zhiyin.core.run import log
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.item_event_log import ItemLog
from zhiyin.ranking.live_index import IndexState
from zhiyin.service.loaded_version import LoadedVersion
from zhiyin.service.version_view import View
from zhiyin.store.records import hash_of
from zhiyin.store.store import Store

FORMAT = 1
# Places behind the events for those to come: at least, and as a share of the events.
MIN_ROOM, ROOM = 65_536, 0.25
# Seconds before a snapshot is tried again after a process that made one has failed.
RETRY_SECONDS = 300.0
_POOL = ("times", "positive", "valued", "value", "kinds")


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """An index as it was read from a file.

    Parameters
    ----------
    copies: the same index twice, in memory of their own.
    seq, events: see `IndexState`.
    waiting: sequence numbers of events whose items had no code.
    forget_count: how often users were forgotten before.
    """

    copies: tuple[AsOf, AsOf]
    seq: int
    events: int
    waiting: list[int]
    forget_count: int


class FeatureSnapshots:
    """The snapshots of a folder of versions and one store.

    Parameters
    ----------
    weights: as `LoadedVersion` takes them.
    """

    def __init__(self, bundles: Bundles, store: Store, weights: dict[str, float]) -> None:
        self.bundles, self.store, self._weights = bundles, store, weights
        self.folder = bundles.folder / ".feature-index"
        self._process: subprocess.Popen[bytes] | None = None
        self._failed_at = -RETRY_SECONDS
        # By version: the file that was read last, as `_stamp` gives it.
        self._read: dict[int, Any] = {}
        self._lock = threading.Lock()
        self.closed = False

    def path(self, version: int) -> Path:
        return self.folder / f"{version:04}-{hashlib.sha256(self.store.identity.encode()).hexdigest()[:8]}.idx"

    def newest(self, view: View, after: int) -> Snapshot | None:
        """The snapshot of a view's version, where there is one that holds, was not read before and knows of events
        after a sequence number."""
        path = self.path(view.version)
        stamp = _stamp(path)
        if stamp is None or self._read.get(view.version) == stamp:
            return None
        self._read[view.version] = stamp
        return read_snapshot(path, self.store, view, after)

    def read_again(self, version: int) -> None:
        """Have the snapshot of a version read by `newest` even where it was read before."""
        self._read.pop(version, None)

    def age(self, version: int) -> float:
        """Seconds since the snapshot of a version was written."""
        stamp = _stamp(self.path(version))
        return float("inf") if stamp is None else max(0.0, time.time() - stamp[1] / 1e9)

    def make(self, version: int) -> bool:
        """Have a snapshot made, unless some process is about it. Returns False where that is not possible now."""
        with self._lock:
            if self._is_running():
                return True
            if self.closed:
                return False
            if time.monotonic() - self._failed_at < RETRY_SECONDS:
                return False
            try:
                self.folder.mkdir(mode=0o700, exist_ok=True)
                lock = _locked(self.folder / ".making")
                if lock is None:  # another process is about it
                    return True
                try:
                    self._process = self._start(version, lock)
                finally:
                    os.close(lock)
            except OSError as error:
                self._failed_at = time.monotonic()
                log.warning("service: no snapshot of the feature index can be made: %s", error.strerror)
                return False
        return True

    def _start(self, version: int, lock: int) -> subprocess.Popen[bytes]:
        told = {
            "bundles": str(self.bundles.folder), "version": version, "store": self.store.url, "weights": self._weights,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "zhiyin.service.feature_snapshot_process"], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, pass_fds=(lock,), env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert process.stdin is not None
        with process.stdin as pipe:  # not as arguments: the address may hold a password
            pipe.write(json.dumps(told).encode())
        return process

    def _is_running(self) -> bool:
        if self._process is None:
            return False
        status = self._process.poll()
        if status is None:
            return True
        self._process = None
        if status:
            self._failed_at = time.monotonic()
            log.warning("service: a snapshot of the feature index could not be made; events are added beside answering")
        return False

    def close(self) -> None:
        """End the process that makes a snapshot; the file of before stays."""
        with self._lock:
            self.closed = True
            if self._process is not None:
                self._process.terminate()
                self._process.wait()
                self._process = None


def write_snapshot(path: Path, state: IndexState, waiting: list[int], view: View, basis: dict[str, Any]) -> None:
    """Write a snapshot.

    Parameters
    ----------
    basis: what `basis_of` said before the events were read.
    """
    recent, known = state.index.recent, len(view.context.item_ids)
    parts = recent.state()
    pool = {name: parts[name] for name in _POOL}
    n = len(pool["times"])
    room = {name: max(MIN_ROOM, int(ROOM * n)) if len(part) == n else 0 for name, part in pool.items()}
    header = {
        "format": FORMAT, "version": _identity(view.loaded), "basis": basis, "seq": state.seq, "events": state.events,
        "latest": state.index.latest, "known": known, "signs": recent.signs, "values": recent.values,
        "new": [str(item) for item in view.ids.raw(np.arange(known, max(known, recent.n_items)))],
    }  # fmt: skip
    arrays = {"counts": parts["counts"], "waiting": np.array(waiting, dtype=np.int64), **pool}
    write_arrays(path, header, arrays, room)


def read_snapshot(path: Path, store: Store, view: View, after: int = -1) -> Snapshot | None:
    """The snapshot of a file; None where it does not hold for this view and store, or knows of nothing `after`."""
    loaded, index = view.loaded, view.loaded.index
    if index is None:
        return None
    try:
        with MappedFile.open(path) as file:
            header = file.header
            current = header["format"] == FORMAT and header["version"] == _identity(loaded)
            if not current or header["seq"] <= after or not holds(header["basis"], store):
                return None
            codes = view.encode(header["new"]) if header["new"] else np.zeros(0, np.int32)
            known, learned = header["known"], index.learned
            signs, values = learned.log.signs, learned.log.values
            fits = header["signs"] == signs and header["values"] == values and len(view.context.item_ids) == known
            if not fits or (codes < 0).any():
                return None
            sides = [file.arrays() for _ in range(2)]
    except FileNotFoundError:
        return None
    except (OSError, DataError, KeyError, TypeError) as error:
        log.warning("service: a snapshot of the feature index is left out: %s", error)
        return None
    items = None
    if len(codes) and not np.array_equal(codes, np.arange(known, known + len(codes))):
        items = np.concatenate([np.arange(known), codes]).astype(np.int64)
    counts, waiting = sides[0]["counts"], sides[0]["waiting"].tolist()
    if items is not None and len(items) != len(counts):
        return None
    logs = [ItemLog.over(counts, side, items, signs=signs, values=values) for side in sides]
    first, second = (learned.with_recent(one, header["latest"]) for one in logs)
    return Snapshot((first, second), header["seq"], header["events"], waiting, header["basis"]["forgotten"])


def basis_of(store: Store) -> dict[str, Any]:
    """What a snapshot of the events up to the last one now holds by: the store, its last and its oldest event, and how
    often users were forgotten."""
    forgotten, seq = store.forget_count(), store.last_seq
    last = store.events_by_seq([seq], ("seq", "id"))
    return {
        "store": store.identity, "forgotten": forgotten, "last": seq, "oldest": store.oldest_seq(seq),
        "last_id": hash_of(str(last["id"][0])) if len(last) else "",
    }  # fmt: skip


def holds(basis: dict[str, Any], store: Store) -> bool:
    """Whether no event of then has been deleted since, and the store is the same."""
    if basis["store"] != store.identity or basis["forgotten"] != store.forget_count():
        return False
    found = store.events_by_seq(sorted({basis["last"], basis["oldest"]}), ("seq", "id"))
    ids = dict(zip(found["seq"].to_list(), found["id"].to_list()))
    return basis["oldest"] in ids and basis["last"] in ids and hash_of(str(ids[basis["last"]])) == basis["last_id"]


def read_waiting(store: Store, seqs: list[int], names: tuple[str, ...]) -> pl.DataFrame:
    """The events of these sequence numbers that are still there."""
    return store.events_by_seq(seqs, names) if seqs else pl.DataFrame()


def _identity(loaded: LoadedVersion) -> str:
    """A digest of a version's files, of what its events mean, and of where in the store's log it ends."""
    said = [loaded.digest, loaded.learned_seq, loaded.schema.state()]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _stamp(path: Path) -> Any:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _locked(path: Path) -> int | None:
    """A descriptor that holds a lock, also in processes that inherit it; None where another one holds it."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sweep(folder: Path, versions: list[int]) -> None:
    """Remove what writers that were killed left, and snapshots of versions that are gone. For who holds the lock."""
    prefix = draft_path(folder / "x").name.split("x", 1)[0]
    for path in folder.iterdir():
        is_draft = path.name.startswith(prefix) and path.name.endswith(".draft")
        number = path.name.partition("-")[0]
        if is_draft or (path.suffix == ".idx" and not (number.isdigit() and int(number) in versions)):
            path.unlink(missing_ok=True)
