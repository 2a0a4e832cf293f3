"""Compiled kernels that last from one test run to the next, also for a fresh clone at another path.

Numba keeps compiled code in a folder named after the path of the source, and asks only that source whether it changed.
Here the folder is named by a hash of all sources with kernels (a kernel is compiled with the kernels it calls, in
whatever file they are), of Numba and of Python; below it each folder of `src/zhiyin` has one place, whatever the path
of the clone. Numba itself adds the processor to the key of each entry. Programs that tests start inherit the folder
with the environment.

    ${NUMBA_CACHE_DIR}                                            where it is set: nothing is done here
    ${XDG_CACHE_HOME:-~/.cache}/zhiyin-test-kernels/HASH/models   the kernels of src/zhiyin/models
    ${XDG_CACHE_HOME:-~/.cache}/zhiyin-test-kernels/HASH/models_SHA1-OF-PATH -> models
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import sys
import time
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "zhiyin"
MAX_AGE_DAYS = 14
_KERNEL = re.compile(rb"^@(?:kernel|compiled)\b|\bcompiled\(", re.MULTILINE)


def use_kernel_cache(package: Path = PACKAGE) -> Path | None:
    """Point NUMBA_CACHE_DIR to the shared folder of these sources, before Numba is imported. The folder, or None.

    None: the variable was set already, or the folder cannot be written. Then Numba does what it always does.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return None
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zhiyin-test-kernels"
    sources = kernel_sources(package)
    folder = root / hash_of_sources(package, sources)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(folder)
        for room in sorted({path.parent for path in sources}):
            _link(folder, room, room.relative_to(package).as_posix().replace("/", "."))
        _remove_old(root)
    except OSError:
        return None
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    return folder


def kernel_sources(package: Path = PACKAGE) -> list[Path]:
    """The files that define kernels, or how they are compiled."""
    return [path for path in sorted(package.rglob("*.py")) if _KERNEL.search(path.read_bytes())]


def hash_of_sources(package: Path, sources: list[Path]) -> str:
    """16 hexadecimal digits for the names and the text of these files, the Numba and the Python that compile them."""
    digest = hashlib.sha256(f"{importlib.metadata.version('numba')} {sys.implementation.cache_tag}".encode())
    for path in sources:
        text = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]


def _link(folder: Path, room: Path, name: str) -> None:
    """Make what Numba calls the cache of this folder of sources (numba.core.caching, get_suitable_cache_subpath) a link
    to the place that all clones share."""
    (folder / name).mkdir(exist_ok=True)
    link = folder / f"{room.name}_{hashlib.sha1(str(room).encode()).hexdigest()}"
    try:
        link.symlink_to(name, target_is_directory=True)
    except FileExistsError:
        return


def _remove_old(root: Path) -> None:
    """Remove the folders of sources that no run used for MAX_AGE_DAYS."""
    oldest = time.time() - MAX_AGE_DAYS * 86400
    for folder in root.iterdir():
        if folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)
