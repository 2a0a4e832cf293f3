"""Errors of the operating system, such as too many open files: they may pass, unlike those of damaged files."""

from __future__ import annotations

import errno
import os

_REMEDIES = {
    errno.EMFILE: "raise the limit of open files (ulimit -n, LimitNOFILE)",
    errno.ENFILE: "raise the limit of open files of the machine (sysctl fs.file-max)",
    errno.ENOMEM: "give it more memory",
    errno.EACCES: "let the user that runs the service read the files",
    errno.EPERM: "let the user that runs the service read the files",
}
_DEFAULT_REMEDY = "see the log of the machine; it is tried again"


def describe_system_error(error: BaseException) -> tuple[str, str] | None:
    """Reason and remedy of an error that was raised because the system refused a file or memory.

    The causes and the context of the error are searched, too. Returns None for all other errors, such as files that are
    missing or damaged.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return "memory ran out while it was loaded", _REMEDIES[errno.ENOMEM]
        if isinstance(cause, OSError) and cause.errno is not None and not _is_damage(cause):
            remedy = _REMEDIES.get(cause.errno, _DEFAULT_REMEDY)
            return f"its files could not be read: {os.strerror(cause.errno)}", remedy
        cause = cause.__cause__ or cause.__context__
    return None


def _is_damage(error: OSError) -> bool:
    return isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
