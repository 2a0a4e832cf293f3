"""Atomic writes of files, and logs of JSON lines that survive a line that was cut off.

Every file that the project rewrites goes through `whole_file`: a draft beside the target, `fsync`, rename, `fsync` of
the folder. Readers see the old content or the new one, also after a crash or a power failure. Every log of JSON lines
goes through `append_record` and `read_records`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zhiyin.core.errors import DataError
from zhiyin.core.run import log


def draft_path(target: Path, what: str = "draft") -> Path:
    """A unique hidden name beside the target, with the process id; see `sweep`."""
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.{what}")


def sweep(folder: Path, pid: int) -> None:
    """Remove the drafts that an ended process left in a folder."""
    for draft in folder.glob(f".*.{pid}.*"):
        shutil.rmtree(draft, ignore_errors=True) if draft.is_dir() else draft.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_file(target: str | Path, mode: int | None = None) -> Iterator[Path]:
    """A path to write to, which replaces the target at the end, unless an exception is raised.

    A symbolic link stays one: the file that it names is replaced. What is no regular file (a pipe, a device) is
    written to directly.

    Parameters
    ----------
    mode: permission bits of the new file; None keeps those of the old file, or takes the process's default.
    """
    target = Path(os.path.realpath(target))
    if target.exists() and not target.is_file():
        yield target
        return
    draft = draft_path(target)
    try:
        if mode is not None:
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield draft
        if mode is None:
            with contextlib.suppress(OSError):
                os.chmod(draft, os.stat(target).st_mode & 0o7777)
        replace_durably(draft, target)
    except OSError as error:
        raise error_of_target(error, draft, target) from None
    finally:
        with contextlib.suppress(NotADirectoryError):
            draft.unlink(missing_ok=True)


def error_of_target(error: OSError, draft: Path, target: Path) -> OSError:
    """The same error, with the name of the target where it has that of the draft."""
    number = re.search(r"\(os error (\d+)\)", str(error))  # as polars writes what the system said
    code = error.errno or (int(number[1]) if number else None)
    if code is None or draft.name not in str(error):
        return error
    return OSError(code, os.strerror(code), str(target))


def replace_durably(draft: Path, target: Path) -> None:
    """Rename a finished file over the target; its content is on the disk before, and the rename when this returns."""
    sync(draft)
    os.replace(draft, target)
    sync(target.parent)


def write_whole(target: str | Path, content: str | bytes, mode: int | None = None) -> None:
    """Replace a file by this content (texts as UTF-8); see `whole_file`."""
    with whole_file(target, mode) as draft, open(draft, "wb") as opened:
        opened.write(content.encode() if isinstance(content, str) else content)


def write_json(target: str | Path, value: Any, *, indent: int | None = None, mode: int | None = None) -> None:
    """Replace a file by a value as JSON and a line's end."""
    write_whole(target, json.dumps(value, indent=indent) + "\n", mode)


def read_json(path: str | Path, remedy: str, *, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON object in a file.

    Raises FileNotFoundError where there is none, and DataError that names the file, with this remedy, where it cannot
    be read, is cut off or damaged, or lacks one of the `names`.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", file=path, remedy=remedy) from None
    except (ValueError, RecursionError):
        raise DataError("the file is cut off or damaged", file=path, remedy=remedy) from None
    missing = [name for name in names if not isinstance(value, dict) or name not in value]
    if not isinstance(value, dict) or missing:
        raise DataError("the file does not hold what it should", file=path, remedy=remedy)
    return value


def append_record(path: str | Path, record: dict[str, Any]) -> None:
    """Append one JSON object as a line, on the disk when this returns; makes the file where it is missing.

    Where the last line was cut off by a crash or a full disk, the new one begins on a line of its own.
    """
    path = Path(path)
    line = json.dumps(record).encode() + b"\n"
    is_new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        size = os.fstat(handle).st_size
        if size:
            os.lseek(handle, size - 1, os.SEEK_SET)
            if os.read(handle, 1) != b"\n":
                line = b"\n" + line
        while line:
            line = line[os.write(handle, line) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    if is_new:
        sync(path.parent)


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, oldest first; none where there is no file.

    A line that was cut off or damaged is left out, and a warning says so. Raises DataError where the file cannot be
    read at all.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", file=path, remedy="see its permissions") from None
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError
        except (ValueError, RecursionError):
            log.warning("%s, line %d: cut off or damaged, left out", path, number)
            continue
        records.append(record)
    return records


def mend_last_line(path: Path) -> bool:
    """Complete or remove the last line of a file of JSON lines where it has no line end. Returns whether it did.

    For writers that append by other means than `append_record`.

    A line that is whole but for its end gets it; half a line goes, and a warning says so.
    """
    with open(path, "r+b") as opened:
        content = opened.read()
        start = content.rfind(b"\n") + 1
        if start == len(content):
            return False
        try:
            json.loads(content[start:])
            opened.write(b"\n")
        except (ValueError, RecursionError):
            log.warning("%s: its last line was cut off and is removed", path)
            opened.truncate(start)
        opened.flush()
        os.fsync(opened.fileno())
    return True


def sync(path: Path) -> None:
    """Flush a file or folder to the disk (`fsync`); folders are skipped where the system cannot do that."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():  # Windows opens no folders
            return
        raise
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(handle)
