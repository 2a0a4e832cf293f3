"""The folder that the processes of one running service share, for metrics and for showings of items to users.

It is in the temporary folder, private to the user that runs the service, and removed at the end. The folder of a
service that was killed is removed by the next start. A folder is in use while any process holds a shared lock
(`flock`) on it. The system releases the locks of a process however it ends, so that neither a process id that was
assigned again nor one of another container can be mistaken for the owner.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from zhiyin.core.run import log

PREFIX = "zhiyin-run-"


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """A new folder in use until the end, then removed."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # mode 0700
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(in_use(folder))
            except FileNotFoundError:  # another start swept it between the two calls
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep other processes from removing a folder. Raises FileNotFoundError where it has been removed."""
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: then nobody can sweep it either
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not _is_still(folder, descriptor):
            raise FileNotFoundError(f"{folder} has been removed")
        yield
    finally:
        os.close(descriptor)


def sweep_run_folders() -> int:
    """Remove the folders of services that were killed. Returns how many.

    Only folders of this user are considered; folders in use, and those that cannot be removed, stay.
    """
    swept = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            swept += _sweep(folder)
    if swept:
        log.info("service: removed %d folders of services that were killed", swept)
    return swept


def _sweep(folder: Path) -> bool:
    import fcntl

    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return False
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises BlockingIOError while it is in use
        if not _is_still(folder, descriptor):
            return False
        shutil.rmtree(folder)
        return True
    finally:
        os.close(descriptor)


def _is_still(folder: Path, descriptor: int) -> bool:
    """Whether a path still names the folder that was opened."""
    try:
        return os.path.samestat(os.lstat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False
