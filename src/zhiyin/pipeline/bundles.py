"""Bundles: numbered, sealed versions of a trained model, and which of them is in use.

    models/bundles/
      0001/            bundle.json (the manifest), model/ (what `save` wrote), report.json,
                       catalogue/ (items and users)
      0002/
      current          the number in use; replaced whole, so a reader sees the old one or the new one
      promotions.jsonl one line for each change of `current`, oldest first
      .training        locked by who trains: one training at a time makes versions

A bundle never changes once it is written: its manifest holds a checksum of every file, the window of the data, the
figures it was judged by and the versions of the code. Nothing in it can run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from zhiyin.core.errors import DataError
from zhiyin.core.folders import whole_folder
from zhiyin.core.params import settings_of
from zhiyin.data.catalogue import Catalogue
from zhiyin.models import saving
from zhiyin.models.base import Recommender

FORMAT = 1
# Names the descriptor of the lock to a training that another process started.
TRAINING = "ZHIYIN_TRAINING"


class BusyError(DataError):
    """Another process makes a version."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A version on disk. `manifest`: see the module."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def version(self) -> int:
        return int(self.folder.name)

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    def load(self, *, mmap: bool = True) -> Recommender:
        """The model, memory-mapped. `verify` first where the disk is not trusted."""
        return saving.load(self.model_folder, mmap=mmap)

    def verify(self) -> None:
        """Compare every file with its checksum. Raises DataError that names the first that differs."""
        for name, said in self.manifest["files"].items():
            file = self.folder / name
            if not file.is_file() or checksum(file) != said:
                raise DataError(
                    f"{name} is not what was written", file=self.folder, remedy="use another version: zhiyin rollback"
                )

    def report(self) -> dict[str, Any]:
        """What was measured when it was made; empty where nothing was."""
        file = self.folder / "report.json"
        return json.loads(file.read_text()) if file.exists() else {}


class Bundles:
    """All versions in a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def versions(self) -> list[int]:
        """Numbers of the versions there are, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit() and (p / "bundle.json").is_file())

    def get(self, version: int) -> Bundle:
        """A version. Raises DataError, with the versions there are, for one that is not there or damaged."""
        folder = self.folder / f"{version:04}"
        try:
            manifest = json.loads((folder / "bundle.json").read_text())
            assert manifest["format"] == FORMAT
            assert isinstance(manifest["files"], dict)
        except FileNotFoundError:
            there = ", ".join(map(str, self.versions())) or "none; train one: zhiyin train --budget 10m"
            raise DataError(f"there is no version {version}", file=self.folder, remedy=f"there are {there}") from None
        except (ValueError, KeyError, TypeError, AssertionError):
            raise DataError("bundle.json is damaged or of a newer format", file=folder, remedy="train again") from None
        return Bundle(folder, manifest)

    @property
    def current(self) -> Bundle | None:
        """The version in use."""
        try:
            return self.get(int((self.folder / "current").read_text()))
        except (FileNotFoundError, ValueError):
            return None

    def write(
        self,
        model: Recommender,
        *,
        figures: dict[str, Any],
        report: dict[str, Any] | None = None,
        catalogue: Catalogue | None = None,
        made: datetime | None = None,
    ) -> Bundle:
        """Keep a fitted model as the next version; it is not in use before it is promoted.

        figures: what it was judged by, plain numbers and texts; report: all that was measured; catalogue: the items and
        users it was trained with, for filters and titles; made: when its data was read, left out, now. Of who was
        forgotten after that moment it still knows.
        """
        version = max(self.versions(), default=0) + 1
        target = self.folder / f"{version:04}"
        known = model._known()
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
                "made": (made or datetime.now(UTC)).isoformat(timespec="seconds"),
                "model": type(model).__name__,
                "settings": settings_of(model),
                "data": {
                    "fingerprint": known.fingerprint,
                    "window": list(known.window),
                    "events": len(known.histories.items),
                    "users": len(known.user_ids),
                    "items": len(known.item_ids),
                },
                "figures": figures,
                "code": code_versions(),
                "files": files,
            }
            (draft / "bundle.json").write_text(json.dumps(manifest, indent=1) + "\n")
        return self.get(version)

    def promote(self, version: int, why: str = "") -> Bundle:
        """Put a version in use, after its files were verified. Returns it."""
        bundle = self.get(version)
        bundle.verify()
        before = self.current
        line = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": version,
            "before": before.version if before else None,
            "why": why,
        }
        draft = self.folder / f".current.{os.getpid()}"
        draft.write_text(f"{version}\n")
        os.replace(draft, self.folder / "current")
        with open(self.folder / "promotions.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")
        return bundle

    def rollback(self) -> Bundle:
        """Put back in use what was in use before. Raises DataError where nothing was."""
        stack = self._used()
        if len(stack) < 2:
            raise DataError("nothing was in use before", file=self.folder, remedy="zhiyin promote VERSION")
        bundle = self.get(stack[-2])
        bundle.verify()
        draft = self.folder / f".current.{os.getpid()}"
        draft.write_text(f"{bundle.version}\n")
        os.replace(draft, self.folder / "current")
        line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "version": bundle.version, "before": stack[-1],
                "rolled_back": True, "why": "rollback"}  # fmt: skip
        with open(self.folder / "promotions.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")
        return bundle

    def _used(self) -> list[int]:
        """Versions that were in use, one after the other; the last one is. What was rolled back is left out."""
        stack: list[int] = []
        for line in self.promotions():
            if line.get("rolled_back"):
                stack.pop()
            elif not stack or stack[-1] != line["version"]:
                stack.append(line["version"])
        return stack

    def prune(self, keep: int = 5) -> list[int]:
        """Delete all but the newest `keep`, the one in use and the one before it. Returns the numbers deleted.

        Who has a deleted version open goes on with it.
        """
        deleted = []
        for version in self.versions()[: -max(1, keep)]:
            used = self.current
            if version in self._used()[-2:] or (used is not None and used.version == version):
                continue
            gone = self.folder / f".{version:04}.gone"
            shutil.rmtree(gone, ignore_errors=True)
            (self.folder / f"{version:04}").rename(gone)  # half a version is never to be seen
            shutil.rmtree(gone, ignore_errors=True)
            deleted.append(version)
        return deleted

    @contextlib.contextmanager
    def training(self) -> Iterator[int]:
        """Hold the lock of who makes versions; gives its file descriptor. Raises BusyError where another one has it.

        A process that is started with the descriptor and its number in ZHIYIN_TRAINING holds the lock with its parent,
        and after it: the lock is let go when the last of them ends, however it ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ".training"
        given = os.environ.get(TRAINING, "")
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
        """Every change of what is in use, oldest first."""
        file = self.folder / "promotions.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


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


def difference(old: Bundle, new: Bundle) -> dict[str, tuple[Any, Any]]:
    """What differs between two versions: {"data.events": (old, new), ...}; files are left out."""
    flat = [_flat({k: v for k, v in bundle.manifest.items() if k not in ("files", "format")}) for bundle in (old, new)]
    names = dict.fromkeys([*flat[0], *flat[1]])
    return {name: (flat[0].get(name), flat[1].get(name)) for name in names if flat[0].get(name) != flat[1].get(name)}


def _flat(value: Any, before: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {before: value}
    found: dict[str, Any] = {}
    for name, part in value.items():
        found |= _flat(part, f"{before}.{name}" if before else name)
    return found


def checksum(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def code_versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    from zhiyin import __version__

    found = {"zhiyin": __version__, "python": platform.python_version()}
    for name in ("numpy", "scipy", "polars", "numba", "lightgbm", "torch"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
