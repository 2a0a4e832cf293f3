"""Atomic writes of folders: whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from zhiyin.core.atomic_files import draft_path, error_of_target, sync

# Of Linux's renameat2(2): paths are relative to the working folder; the two names change places in one step.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target that replaces it at the end, unless an exception is raised.

    All of it is on the disk before it does. Where the system can exchange two names, there is a whole folder at
    the target at every moment; elsewhere, for the time between two renames, there is none.
    """
    target = Path(os.path.realpath(target))
    draft = draft_path(target)
    try:
        draft.mkdir(parents=True)
        yield draft
        replace_folder(draft, target)
    except OSError as error:
        raise error_of_target(error, draft, target) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # after an exchange this is the old folder


def replace_folder(draft: Path, target: Path) -> None:
    """Replace the target by a finished folder, all of it on the disk before.

    An old target may be left under the draft's name, for the caller to remove.
    """
    for place, _, files in os.walk(draft):
        for name in files:
            sync(Path(place, name))
        sync(Path(place))
    if not target.exists():
        draft.rename(target)
    elif not _exchange(draft, target):
        _replace_by_two_renames(draft, target)
    sync(target.parent)


def _replace_by_two_renames(draft: Path, target: Path) -> None:
    """Replace the target by two renames; the first is taken back where the second fails."""
    old = draft_path(target, "old")
    target.rename(old)
    try:
        draft.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    return renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """The function `renameat2` of the C library; None where it has none."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function
