"""Errors of the operating system apart from damaged files: what the machine lacks now it may have in a moment."""

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
_ELSE = "see the log of the machine; it is tried again"


def refused_by_system(error: BaseException) -> tuple[str, str] | None:
    """Reason and remedy, where an error was raised because the system refused a file or memory; None for others, such
    as files that are missing or damaged. Errors that it was raised from are looked at, too."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError):
            return "memory ran out while it was loaded", _REMEDIES[errno.ENOMEM]
        if isinstance(seen, OSError) and seen.errno is not None and not _tells_of_damage(seen):
            return f"its files could not be read: {os.strerror(seen.errno)}", _REMEDIES.get(seen.errno, _ELSE)
        seen = seen.__cause__ or seen.__context__
    return None


def _tells_of_damage(error: OSError) -> bool:
    return isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
