"""Where compiled kernels are kept on the disk: in a folder that is named by all they are compiled from.

Numba asks only the file of a function whether its compiled code is still right, and not the files of the functions and
constants that were compiled into it. So the folder is named by a hash of all files with kernels, of the versions of
Numba, LLVM and Python, and of the processor: after an upgrade in place nothing of before is found, and versions side by
side have a folder each. The path of the package plays no part.

    ROOT/zhiyin-HASH/models       the kernels of zhiyin/models
    ROOT/zhiyin-HASH/other-SHA1   those of a folder outside of the package

ROOT is $NUMBA_CACHE_DIR where that is set, or the first that can be written of `__pycache__/kernels` in the package,
`~/.cache/zhiyin` ($XDG_CACHE_HOME) and a private folder of the system's temporary one. Folders that no start used for
MAX_AGE_DAYS are removed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import llvmlite.binding
from numba.core import caching

from zhiyin.core.run import log

PACKAGE = Path(__file__).parents[1]
MAX_AGE_DAYS = 14
_PREFIX = "zhiyin-"
_KERNEL = re.compile(rb"^ *@(?:kernel|compiled|intrinsic)\b|\bcompiled\(", re.MULTILINE)
_IMPORT = re.compile(rb"^from ([\w.]+) import (\([^)]*\)|[^\n]*)", re.MULTILINE)
_CONSTANT = re.compile(rb"\b[A-Z][A-Z0-9_]+\b")


def kernel_sources(package: Path = PACKAGE) -> list[Path]:
    """The files that define kernels, and those of the package that these take constants from."""
    texts = {path: path.read_bytes() for path in sorted(package.rglob("*.py"))}
    sources = {path for path, text in texts.items() if _KERNEL.search(text)}
    for text in [texts[path] for path in sources]:
        for module, names in _IMPORT.findall(text):
            if _CONSTANT.search(names):
                path = package.parent.joinpath(*module.decode().split("."))
                sources |= {path.with_suffix(".py"), path / "__init__.py"} & texts.keys()
    return sorted(sources)


def kernel_hash(package: Path = PACKAGE) -> str:
    """16 hexadecimal digits for the names and the text of these files, and for what compiles them for which machine."""
    said = [metadata.version("numba"), metadata.version("llvmlite"), sys.implementation.cache_tag]
    features = sorted(name for name, has in llvmlite.binding.get_host_cpu_features().items() if has)
    digest = hashlib.sha256(" ".join([*said, llvmlite.binding.get_host_cpu_name(), *features]).encode())
    for path in kernel_sources(package):
        text = path.read_bytes()
        digest.update(f"\n{path.relative_to(package).as_posix()} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]


@functools.cache
def kernel_folder() -> Path | None:
    """The folder of this process's kernels; None where none can be written. Which it is, is logged where it is a
    temporary one, or none."""
    name = _PREFIX + kernel_hash()
    for root in _roots():
        folder = root / name
        try:
            is_new = not folder.is_dir()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                continue
            os.utime(folder)
        except OSError:
            continue
        if is_new:
            sweep(root)
        return folder
    private = _temporary_root()
    if private is None:
        log.warning(
            "no folder for compiled code can be written, so each start compiles anew: set NUMBA_CACHE_DIR to one"
        )
        return None
    log.info("compiled code is kept in %s; set NUMBA_CACHE_DIR to a folder that lasts", private)
    (private / name).mkdir(mode=0o700, exist_ok=True)
    return private / name


def sweep(root: Path) -> None:
    """Remove the folders of kernels that no start used for MAX_AGE_DAYS. A process that still uses one of them makes it
    again when it compiles."""
    oldest = time.time() - MAX_AGE_DAYS * 86_400
    for folder in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _roots() -> Iterator[Path]:
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        yield Path(chosen)
        return
    yield PACKAGE / "__pycache__" / "kernels"
    with contextlib.suppress(RuntimeError):  # nobody knows a home folder
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zhiyin"


def _temporary_root() -> Path | None:
    """A folder that only this user can write, or None.

    What lies there is executed, so a folder that belongs to somebody else, or that others can write, is not used.
    """
    folder = Path(tempfile.gettempdir(), f"zhiyin-compiled-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(folder)
    except OSError:
        return None
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return folder if own and os.access(folder, os.W_OK | os.X_OK) else None


class KernelLocator(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):
    """What Numba asks where the code of a function is kept; see the module."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file, self._lineno = file, function.__code__.co_firstlineno
        folder = kernel_folder()
        if folder is None:
            raise OSError("no folder can be written")
        source = Path(os.path.abspath(file)).parent
        if source.is_relative_to(PACKAGE):
            place = source.relative_to(PACKAGE).as_posix().replace("/", ".")
        else:
            place = f"other-{hashlib.sha1(str(source).encode()).hexdigest()}"
        self._folder = folder / place

    def get_cache_path(self) -> str:
        return str(self._folder)

    def ensure_cache_path(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> KernelLocator | None:
        try:
            return super().from_function(py_func, py_file)
        except OSError:
            return None
