"""Compiles the kernels that a version needs into the folder on the disk, by a process of its own.

Compiling takes a minute or more and would hold the interpreter of who answers, again and again for a few hundredths of
a second. So `KernelCompiler` has `python -m zhiyin.service.kernel_compilation` load the version and make its lists
(`warm_up`); the service then reads what was compiled in a second or two. A file in the folder says that the kernels for
models of a kind are there. Of several processes one compiles and the others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from zhiyin.core.kernel_cache import kernel_folder
from zhiyin.core.run import log
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service.loaded_version import LoadedVersion

# Seconds after which it is logged that compiling takes long, and what then is logged.
NOTICE_SECONDS = 5.0
COMPILING = (
    "service: code for version %d is being compiled, for a minute or more; it is kept on disk for later starts, and "
    "requests are answered when it is done"
)
COMPILING_BESIDE = "service: code for version %d is being compiled, beside answering by the version before"
NICENESS = 10


class KernelCompiler:
    """See the module.

    Parameters
    ----------
    on_compile: called before compiling begins.
    """

    def __init__(self, bundles: Bundles, on_compile: Callable[[], None] = lambda: None) -> None:
        self._bundles, self._on_compile = bundles, on_compile
        self._process: subprocess.Popen[bytes] | None = None

    def compile(self, loaded: LoadedVersion, *, beside: bool) -> None:
        """Compile what is not on the disk. Where that fails, `warm_up` compiles it in this process.

        Parameters
        ----------
        beside: whether requests are answered meanwhile: then at a low priority.
        """
        folder = kernel_folder()
        if folder is None:
            return
        done = folder / f"complete-{hashlib.sha256(model_kind(loaded).encode()).hexdigest()[:16]}"
        if done.exists():
            return
        with _only_one(folder / ".compiling"):
            if done.exists():
                return
            self._on_compile()
            notice = threading.Timer(
                NOTICE_SECONDS, log.info, (COMPILING_BESIDE if beside else COMPILING, loaded.version)
            )
            notice.daemon = True
            notice.start()
            try:
                if self._run(loaded.version, beside):
                    done.touch(mode=0o600)
            except OSError as error:
                log.warning("service: code is compiled by the service itself: %s", error.strerror)
            finally:
                notice.cancel()

    def _run(self, version: int, beside: bool) -> bool:
        told = {"bundles": str(self._bundles.folder), "version": version, "niceness": NICENESS if beside else 0}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "zhiyin.service.kernel_compilation"], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._process.communicate(json.dumps(told).encode())
        return self._process.returncode == 0

    def close(self) -> None:
        """End a compilation; what it has compiled stays."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()


def model_kind(loaded: LoadedVersion) -> str:
    """Names of the classes of a version's model, its sources and its ranker: what else differs changes no kernel."""
    model = loaded.model
    sources = getattr(model, "sources_", None) or {}
    parts = [model, *(sources.values() if isinstance(sources, dict) else sources), getattr(model, "ranker_", None)]
    return " ".join(type(part).__name__ for part in parts)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the lock of a file; wait until it is free. Where there are no locks, nobody waits."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except (ImportError, OSError):
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main() -> None:
    from zhiyin.core.absent_modules import AbsentModules
    from zhiyin.service.training_process import end_with_parent
    from zhiyin.service.version_view import View
    from zhiyin.service.warm_up import compile_all

    end_with_parent(os.getppid())
    told = json.loads(sys.stdin.buffer.read())
    os.nice(told["niceness"])
    log.setLevel("ERROR")  # what a version lacks, its service says
    with AbsentModules("pandas", "sklearn"):
        loaded = LoadedVersion(Bundles(told["bundles"]).get(told["version"]), {}, {})
        compile_all(View.of(loaded, {}, 0, warm=False))


if __name__ == "__main__":
    main()
