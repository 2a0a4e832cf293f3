"""Bundles: the registry of model versions on disk: numbered, never changed, one of them in use.

    models/bundles/
      0001/            bundle.json (the manifest), model/ (what `save` wrote), report.json,
                       catalogue/ (items and users)
      0002/
      current          the number in use; replaced whole, so a reader sees the old one or the new one
      promotions.jsonl one line for each change of `current`, oldest first, written before the change: a last line
                       whose change did not take place is passed over, a line that is cut off likewise
      .training        locked by who trains: one training at a time makes versions

A bundle never changes once it is written: its manifest holds a checksum of every file, the window of the data, the
metrics of its evaluation and the versions of the code. It contains no code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from zhiyin.core.atomic_files import append_record, read_json, read_records, write_whole
from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.errors import DataError
from zhiyin.core.params import settings_of
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.event_schema import EventSchema, schema_of_weights
from zhiyin.models.loading import load as load_model
from zhiyin.models.recommender import Recommender

FORMAT = 1
# Names the descriptor of the lock to a training that another process started.
TRAINING_LOCK = "ZHIYIN_TRAINING"


_AGAIN, _CHOOSE = "train again", "zhiyin promote VERSION"
_OTHER = "bring its files back from a backup, or choose another version: zhiyin versions, zhiyin promote VERSION"
_NUMBER = re.compile(rb"\s*\d{1,9}\s*\n")


class BusyError(DataError):
    """Another process is training a version."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A version on disk. `manifest`: see the module."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def version(self) -> int:
        return int(self.folder.name)

    @property
    def made_at(self) -> int:
        """When its data was read, microseconds UTC."""
        return int(datetime.fromisoformat(self.manifest["made"]).timestamp() * 1e6)

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    def load(self, *, mmap: bool = True) -> Recommender:
        """The model, memory-mapped. `verify` first where the disk is not trusted."""
        return load_model(self.model_folder, mmap=mmap)

    def verify(self) -> None:
        """Compare the folder with its manifest: the same files, no more and no fewer, each with its checksum.

        Raises DataError that names the first that differs.
        """
        try:
            self.made_at  # noqa: B018
            files = {str(PurePosixPath(*file.relative_to(self.folder).parts)): file for file in _files(self.folder)}
        except (ValueError, TypeError, KeyError, OSError):
            raise self._wrong("bundle.json is not what was written") from None
        files.pop("bundle.json", None)
        checksums = self.manifest["files"]
        if "model/model.json" not in checksums:
            raise self._wrong("bundle.json names no model")
        for name in sorted(files.keys() | checksums.keys()):
            if name not in checksums:
                raise self._wrong(f"{name} was not written with it")
            if name not in files or checksum(files[name]) != checksums[name]:
                raise self._wrong(f"{name} is not what was written")

    def _wrong(self, message: str) -> DataError:
        return DataError(message, file=self.folder, remedy=_OTHER)

    def event_schema(self) -> EventSchema | None:
        """What events mean to the model, read without loading it; None for a version that was saved without it.

        Raises DataError where the file of the model is damaged.
        """
        file = self.model_folder / "model.json"
        try:
            state = read_json(file, _OTHER).get("schema")
            return None if state is None else EventSchema.from_state(state)
        except (FileNotFoundError, KeyError, TypeError):
            raise DataError("the file is missing or damaged", file=file, remedy=_OTHER) from None

    def report(self) -> dict[str, Any]:
        """The evaluation report that was saved with it; empty without one."""
        try:
            return read_json(self.folder / "report.json", _OTHER)
        except FileNotFoundError:
            return {}


class Bundles:
    """All versions in a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def versions(self) -> list[int]:
        """Numbers of the versions there are, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit() and (p / "bundle.json").is_file())

    def folder_of(self, version: int) -> Path:
        """Where a version is, whether or not there is one."""
        return self.folder / f"{version:04}"

    def get(self, version: int) -> Bundle:
        """A version. Raises DataError, with the versions there are, for one that is not there or damaged."""
        folder = self.folder_of(version)
        try:
            manifest = read_json(folder / "bundle.json", _AGAIN, names=("format", "files"))
        except (FileNotFoundError, NotADirectoryError):
            there = ", ".join(map(str, self.versions())) or "none; train one: zhiyin train --budget 10m"
            raise DataError(f"there is no version {version}", file=self.folder, remedy=f"there are {there}") from None
        if manifest["format"] != FORMAT or not isinstance(manifest["files"], dict):
            raise DataError("bundle.json is of another format", file=folder, remedy=_AGAIN)
        return Bundle(folder, manifest)

    @property
    def current(self) -> Bundle | None:
        """The version in use; None where none is. Raises DataError where the file that names it is damaged."""
        version = self.current_number
        return None if version is None else self.get(version)

    def event_schema(self, weights: Mapping[str, float]) -> EventSchema:
        """What events mean to the version in use; without one, by these weights, or as is usual.

        weights: of kinds of events, as in `zhiyin.toml`.
        """
        in_use = self.current
        schema = None if in_use is None else in_use.event_schema()
        return schema or schema_of_weights((), weights)

    @property
    def current_number(self) -> int | None:
        """The number of the version in use; None where none is. Raises DataError where its file is damaged."""
        file = self.folder / "current"
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if _NUMBER.fullmatch(content) is None:  # also a number without its line's end: it may be half of one
            raise DataError("the number of the version in use is cut off or damaged", file=file, remedy=_CHOOSE)
        return int(content)

    def write(
        self,
        model: Recommender,
        *,
        figures: dict[str, Any],
        report: dict[str, Any] | None = None,
        catalogue: Catalogue | None = None,
        made_at: datetime | None = None,
    ) -> Bundle:
        """Save a fitted model as the next version; it is not in use before it is promoted.

        Parameters
        ----------
        figures: metrics it was evaluated by, plain numbers and texts.
        report: the whole evaluation.
        catalogue: the items and users it was trained with, for filters and titles.
        made_at: when its data was read; None: now. Users who are forgotten later are still in it.
        """
        version = max(self.versions(), default=0) + 1
        target = self.folder_of(version)
        context = model._context()
        with whole_folder(target) as draft:
            model.save(draft / "model")
            if catalogue is not None:
                catalogue.save(draft)
            if report is not None:
                (draft / "report.json").write_text(json.dumps(report, indent=1, default=str) + "\n")
            files = {str(f.relative_to(draft)): checksum(f) for f in sorted(draft.rglob("*")) if f.is_file()}
            manifest = {
                "format": FORMAT,
                "version": version,
                "made": (made_at or datetime.now(UTC)).isoformat(timespec="seconds"),
                "model": type(model).__name__,
                "settings": settings_of(model),
                "data": {
                    "fingerprint": context.fingerprint,
                    "window": list(context.window),
                    "events": len(context.histories.items),
                    "users": len(context.user_ids),
                    "items": len(context.item_ids),
                    "store": None if context.position is None else dataclasses.asdict(context.position),
                },
                "figures": figures,
                "code": code_versions(),
                "files": files,
            }
            (draft / "bundle.json").write_text(json.dumps(manifest, indent=1) + "\n")
        return self.get(version)

    def promote(self, version: int, why: str = "", *, load: bool = False) -> Bundle:
        """Put a version in use, after its files were verified and, with `load`, its model was loaded: a service would
        set aside one that cannot be. Returns it."""
        bundle = self.get(version)
        bundle.verify()
        if load:
            bundle.load()
        try:
            before = self.current_number
        except DataError:  # a damaged one is what promoting mends
            before = None
        self._use(version, before, {"why": why})
        return bundle

    def rollback(self) -> Bundle:
        """Put back in use what was in use before.

        Raises DataError where nothing was, or where that is damaged; it then names a version that is not.
        """
        stack = self._used()
        if len(stack) < 2:
            raise DataError("nothing was in use before", file=self.folder, remedy=_CHOOSE)
        try:
            bundle = self.get(stack[-2])
            bundle.verify()
        except DataError as error:
            whole = self._newest_whole(but=stack[-2:])
            raise DataError(
                f"version {stack[-2]}, which was in use before, cannot be used: {error.message}",
                file=self.folder_of(stack[-2]),
                remedy="zhiyin train --budget 10m" if whole is None else f"zhiyin promote {whole}",
            ) from None
        self._use(bundle.version, stack[-1], {"rolled_back": True, "why": "rollback"})
        return bundle

    def _newest_whole(self, but: list[int]) -> int | None:
        """The newest version that is not damaged, but for some."""
        for version in reversed(self.versions()):
            if version not in but:
                with contextlib.suppress(DataError):
                    self.get(version).verify()
                    return version
        return None

    def _use(self, version: int, before: int | None, note: dict[str, Any]) -> None:
        """Record a change of the version in use, then make it; see `_used` for what a crash between the two leaves."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        append_record(self.folder / "promotions.jsonl", {"at": at, "version": version, "before": before, **note})
        write_whole(self.folder / "current", f"{version}\n")

    def _used(self) -> list[int]:
        """Versions that were in use, one after the other; the last one is. What was rolled back is left out.

        `current` is the truth. A line whose change never took place, or that is missing, shows by the `before` of
        the next one, or by `current` after the last one.
        """
        now = self.current_number
        lines = self.promotions()
        stack: list[int] = []
        for line, following in zip(lines, [*(line.get("before") for line in lines[1:]), now]):
            version, before = line["version"], line.get("before")
            if following != version and following == before:
                continue  # noted, and then not made
            if before is not None and (not stack or stack[-1] != before):
                stack.append(before)
            if line.get("rolled_back") and stack:
                stack.pop()
            if not stack or stack[-1] != version:
                stack.append(version)
        if now is not None and (not stack or stack[-1] != now):
            stack.append(now)
        return stack

    def prune(self, keep: int = 5, used: Collection[int] = ()) -> list[int]:
        """Delete all but the newest `keep`, the one in use, the one before it and those `used` otherwise.

        Returns the numbers deleted. A process that has a deleted version open can go on reading it.
        """
        deleted, in_use = [], {*self._used()[-2:], *used}
        for version in self.versions()[: -max(1, keep)]:
            if version in in_use:
                continue
            trash = self.folder / f".{version:04}.gone"
            shutil.rmtree(trash, ignore_errors=True)
            self.folder_of(version).rename(trash)  # half a version is never to be seen
            shutil.rmtree(trash, ignore_errors=True)
            deleted.append(version)
        return deleted

    @contextlib.contextmanager
    def training(self) -> Iterator[int]:
        """Hold the training lock; yields its file descriptor. Raises BusyError where another process holds it.

        A process that is started with the descriptor and its number in ZHIYIN_TRAINING holds the lock with its parent,
        and after it: the lock is let go when the last of them ends, however it ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ".training"
        given = os.environ.get(TRAINING_LOCK, "")
        if given.isdecimal() and _is_open(int(given), path):
            yield int(given)
            return
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(lock, self.folder)
            yield lock
        finally:
            os.close(lock)

    def promotions(self) -> list[dict[str, Any]]:
        """Every recorded change of the version in use, oldest first; damaged lines are left out."""
        lines = read_records(self.folder / "promotions.jsonl")
        return [line for line in lines if isinstance(line.get("version"), int)]


def _lock(descriptor: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError("another training is running", file=folder, remedy="wait until it has ended") from None


def _is_open(descriptor: int, path: Path) -> bool:
    """Whether a descriptor is one of this file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def manifest_difference(old: Bundle, new: Bundle) -> dict[str, tuple[Any, Any]]:
    """Differences of two manifests: {"data.events": (old, new), ...}; files are left out."""
    flat = [_flat({k: v for k, v in bundle.manifest.items() if k not in ("files", "format")}) for bundle in (old, new)]
    names = dict.fromkeys([*flat[0], *flat[1]])
    return {name: (flat[0].get(name), flat[1].get(name)) for name in names if flat[0].get(name) != flat[1].get(name)}


def _flat(value: Any, before: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {before: value}
    flat: dict[str, Any] = {}
    for name, part in value.items():
        flat |= _flat(part, f"{before}.{name}" if before else name)
    return flat


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, hidden ones too. Raises ValueError for a link: what it leads to may change."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ValueError
        if not path.is_dir():
            yield path


def checksum(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def code_versions() -> dict[str, str]:
    """Versions of the packages that the metrics depend on."""
    from zhiyin.core.version import __version__

    versions = {"zhiyin": __version__, "python": platform.python_version()}
    for name in ("numpy", "scipy", "polars", "numba", "lightgbm", "torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
