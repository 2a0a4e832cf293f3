"""Loader of streams: what streaming jobs have committed to files goes into the streamed state, each file once.

    with StreamLoader(folder, state) as loader:
        loader.run_once()          # all that is there
        loader.run(stop)           # again and again

The jobs commit files of JSON lines below `output`; names that begin with "." or "_" are not committed. In which order
files are applied makes no difference. A job that is restored looks for the files that it has committed before, so
applied files are deleted only after a while.

A state that was emptied, or put back to an earlier moment, has lower version numbers than before: what is still there
is loaded again then. What was deleted before is missing, and the state says so; only a fresh start brings it back.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import polars as pl

from zhiyin.core.atomic_files import read_json, write_json
from zhiyin.core.errors import DataError, ZhiyinError, in_one_line
from zhiyin.core.file_locks import exclusive_lock
from zhiyin.core.run import Advance, log
from zhiyin.store.records import hash_of
from zhiyin.store.segment_files import folder_errors, listed_segments, make_streams_folder
from zhiyin.store.store import Store
from zhiyin.store.stream_definitions import OUTPUTS, STATE_OUTPUTS, polars_schema
from zhiyin.store.stream_state import StreamState, forget_streamed

LOCK_FILE = ".load.lock"
# By output the version of the state that it had at least when a file was applied that is deleted.
DELETED_FILE = ".deleted.json"
# Seconds that applied files are kept at least.
MIN_KEEP_SECONDS = 3_600.0
# A larger file is applied in blocks of this many bytes. Never changed: blocks are known by where they begin.
BLOCK_BYTES = 64 * 1024 * 1024
# Seconds between two attempts to reach the state, between two looks for what can be deleted.
RETRY_SECONDS, TIDY_SECONDS = 2.0, 60.0
# What the name of a damaged file is given, so that neither the loader nor a job reads it again.
_DAMAGED = "_damaged-"


class StreamLoader:
    """Applies the outputs below a folder of streams. One loader a folder; it holds a lock until it is closed.

    Parameters
    ----------
    folder: of streams.
    store: whose events they are. Users whom it has forgotten and the state has not, since it is new or was emptied, are
        forgotten there before rows of them are applied. None: they are not looked for.
    keep: seconds after which applied files are deleted; MIN_KEEP_SECONDS at least.
    keep_log: seconds after which files of outputs that the state does not hold are deleted; None: they stay.
    clock: seconds since the epoch; for tests.

    Raises LockHeldError where another loader reads the folder.
    """

    def __init__(
        self,
        folder: Path,
        state: StreamState,
        store: Store | None = None,
        *,
        keep: float = MIN_KEEP_SECONDS,
        keep_log: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._state, self._store, self._clock = folder, state, store, clock
        self._keep, self._keep_log = max(keep, MIN_KEEP_SECONDS), keep_log
        make_streams_folder(folder)
        with ExitStack() as held:
            held.enter_context(
                exclusive_lock(
                    folder / LOCK_FILE, "another loader reads this folder", "one is enough: see zhiyin serve"
                )
            )
            self._held = held.pop_all()
        # `hash_of` users whom the store has forgotten, and the state perhaps not.
        self._forgotten: set[str] = set()
        # Applied files by output; None: not read from the state yet.
        self._applied: dict[str, set[str]] | None = None
        # Versions of the state by output: as this loader left them, when it read what was applied, and by file after it
        # was applied since then.
        self._versions: dict[str, int] = {}
        self._first_versions: dict[str, int] = {}
        self._file_versions: dict[str, dict[str, int]] = {}
        self._unreadable: set[Path] = set()
        self._tidied_at = float("-inf")

    def __enter__(self) -> StreamLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock of the folder up."""
        self._held.close()

    def run_once(self, advance: Advance | None = None, stop: threading.Event | None = None) -> int:
        """Apply all files that were not applied before, and delete old ones. Returns the number of rows applied.

        Parameters
        ----------
        advance: called with the rows of each file.
        stop: once it is set no further file is begun.

        A damaged file is set aside under another name, with a warning that names it. Raises StreamStateAwayError where
        the state cannot be reached.
        """
        files = {output: self._files(output) for output in STATE_OUTPUTS}
        # After the files: a segment whose rows are in them is among these.
        self._state.set_segments(segment.name for segment in listed_segments(self._folder, "events"))
        self._check_versions()
        if self._applied is None:
            self._applied = {output: self._state.applied_files(output) for output in STATE_OUTPUTS}
            self._forgotten = set() if self._store is None else set(self._store.forgotten_by_hash())
            self._first_versions, self._file_versions = dict(self._versions), {output: {} for output in STATE_OUTPUTS}
        n_rows = 0
        for output, of_output in files.items():
            for name, path in of_output.items():
                if stop is not None and stop.is_set():
                    return n_rows
                if name not in self._applied[output]:
                    n_applied = self._apply(output, name, path)
                    n_rows += n_applied
                    if advance is not None:
                        advance(n_applied, output)
        if self._clock() - self._tidied_at >= TIDY_SECONDS or self._clock() < self._tidied_at:
            self._tidy(files, self._applied)
            self._tidied_at = self._clock()
        return n_rows

    def run(self, stop: threading.Event, every: float = 1.0, advance: Advance | None = None) -> None:
        """Load again and again until `stop` is set, with a pause of `every` seconds.

        A state that cannot be reached is waited for; the first failure is logged.
        """
        is_away = False
        while not stop.is_set():
            try:
                self.run_once(advance, stop)
                if is_away:
                    log.info("streams: the state answers again")
                is_away = False
            except (ZhiyinError, OSError) as error:
                if not is_away:
                    log.warning("streams: nothing is loaded for the moment: %s", in_one_line(error))
                is_away, self._applied = True, None  # the server behind the address may be another one, or emptied
            stop.wait(RETRY_SECONDS if is_away else every)

    def _check_versions(self) -> None:
        """See whether the state is still the one that files were applied to."""
        versions = {output: self._state.version(output) for output in STATE_OUTPUTS}
        if any(versions[output] < version for output, version in self._versions.items()):
            log.warning("streams: the state was emptied or put back; what is there is loaded again")
            self._applied = None
        self._versions = versions
        if self._applied is None:
            deleted = self._deleted_versions()
            if any(versions[output] < version for output, version in deleted.items()) and not self._state.is_incomplete:
                self._state.set_incomplete()
                log.warning("streams: the state lacks results whose files were deleted: zhiyin stream start --fresh")

    def _deleted_versions(self) -> dict[str, int]:
        try:
            versions = read_json(self._folder / DELETED_FILE, "remove it")
        except (FileNotFoundError, DataError):
            versions = {}
        return {output: version for output in STATE_OUTPUTS if isinstance(version := versions.get(output, 0), int)}

    def _files(self, output: str) -> dict[str, Path]:
        """Committed files of an output by their names in the state, in the order of names."""
        folder = self._folder / "output" / output
        paths = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
        return {
            name.as_posix(): paths[name]
            for name in sorted(paths)
            if not any(part.startswith((".", "_")) for part in name.parts)
        }

    def _apply(self, output: str, name: str, path: Path) -> int:
        """Apply a file; returns the number of its rows that were applied now."""
        assert self._applied is not None
        n_rows = 0
        try:
            blocks = list(_block_starts(path))
            for start, end in blocks:
                rows = _read_rows(path, start, end, output)
                if self._forgotten and "user" in rows.columns:
                    self._forget(rows["user"])
                block = name if len(blocks) == 1 else f"{name}@{start}"
                if self._state.apply(output, block, rows):
                    self._versions[output] += 1
                    n_rows += len(rows)
            if len(blocks) > 1:
                self._state.apply(output, name, pl.DataFrame(schema=polars_schema(OUTPUTS[output])))
                self._state.remove_marks(output, [f"{name}@{start}" for start, _ in blocks])
        except DataError as error:
            aside = path.with_name(_DAMAGED + path.name)
            log.warning("streams: %s is damaged and set aside as %s: %s", path, aside.name, error.message)
            path.rename(aside)
            return n_rows
        except OSError as error:
            if path not in self._unreadable:
                log.warning("streams: %s cannot be read: %s", path, error.strerror)
                self._unreadable.add(path)
            return n_rows
        self._applied[output].add(name)
        self._file_versions[output][name] = self._versions[output]
        return n_rows

    def _forget(self, users: pl.Series) -> None:
        """Drop from the state who of these users is forgotten in the store only."""
        assert self._store is not None
        for user in users.drop_nulls().unique():
            if (user_hash := hash_of(user)) in self._forgotten:
                if not self._state.has_forgotten(user):
                    forget_streamed(self._store, self._state, user)
                self._forgotten.remove(user_hash)

    def _tidy(self, files: dict[str, dict[str, Path]], applied: dict[str, set[str]]) -> None:
        """Delete old files that were applied, then their marks, and marks whose files were deleted before."""
        oldest = self._clock() - self._keep
        old, versions = [], self._deleted_versions()
        for output, of_output in files.items():
            for name, path in of_output.items():
                if name in applied[output] and path.stat().st_mtime < oldest:
                    old.append(path)
                    version = self._file_versions[output].pop(name, self._first_versions[output])
                    versions[output] = max(version, versions.get(output, 0))
        if old:
            with folder_errors(self._folder):
                write_json(self._folder / DELETED_FILE, versions)
                for path in old:
                    path.unlink()
        for output in files:
            gone = [name for name in applied[output] if not (self._folder / "output" / output / name).is_file()]
            self._state.remove_marks(output, gone)
            applied[output].difference_update(gone)
        if self._keep_log is not None:
            for output in OUTPUTS.keys() - set(STATE_OUTPUTS):
                for path in self._files(output).values():
                    if path.stat().st_mtime < self._clock() - self._keep_log:
                        path.unlink()
        self._state.maintain()


def _block_starts(path: Path) -> Iterator[tuple[int, int]]:
    """Ranges of bytes of whole lines, BLOCK_BYTES or a little more each; one for a file that is not larger."""
    size = path.stat().st_size
    start = 0
    with open(path, "rb") as file:
        while size - start > BLOCK_BYTES:
            file.seek(start + BLOCK_BYTES)
            file.readline()
            yield start, file.tell()
            start = file.tell()
    if start < size or size == 0:
        yield start, size


def _read_rows(path: Path, start: int, end: int, output: str) -> pl.DataFrame:
    """Rows of a range of bytes of a file. Raises DataError where they are damaged."""
    schema = polars_schema(OUTPUTS[output])
    with open(path, "rb") as file:
        file.seek(start)
        content = file.read(end - start)
    if not content.strip():
        return pl.DataFrame(schema=schema)
    try:
        return pl.read_ndjson(io.BytesIO(content), schema=schema)
    except (pl.exceptions.PolarsError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"its lines are no rows of {output} ({reason})", file=path, remedy="see the job's log"
        ) from None
