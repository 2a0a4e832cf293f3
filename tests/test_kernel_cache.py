"""The cache of compiled kernels that test runs share: what it is keyed by, and that it holds every kernel."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from numba.core.registry import CPUDispatcher

import zhiyin
from tests.kernel_cache import MAX_AGE_DAYS, hash_of_sources, kernel_sources, use_kernel_cache


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two kernels in two files, one calling the other, and no cache yet."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = tmp_path / "first" / "pair"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    head = "from numba import njit\ndef compiled(f):\n    return njit(cache=True)(f)\n"
    (package / "inner.py").write_text(f"{head}@compiled\ndef inner(x):\n    return x + 1\n")
    (package / "outer.py").write_text(
        "from pair.inner import compiled, inner\n@compiled\ndef outer(x):\n    return 10 * inner(x)\n"
    )
    return package


def _outer(package: Path) -> tuple[int, int]:
    """outer(1) in a new process, and how many kernels it found compiled."""
    code = "from pair.outer import outer; print(outer(1), len(outer.stats.cache_hits))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(package.parent)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    value, hits = done.stdout.split()
    return int(value), int(hits)


@pytest.mark.slow
def test_a_clone_at_another_path_finds_the_kernels_and_a_changed_callee_is_compiled(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_kernel_cache(package)
    assert _outer(package) == (20, 0)
    clone = package.parents[1] / "second" / "pair"
    shutil.copytree(package, clone)
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    use_kernel_cache(clone)
    assert _outer(clone) == (20, 1)
    # Numba compares outer.py alone: by itself it would go on with the old inner().
    (clone / "inner.py").write_text((clone / "inner.py").read_text().replace("x + 1", "x + 2"))
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    use_kernel_cache(clone)
    assert _outer(clone) == (30, 0)


def test_the_key_is_names_and_text_of_the_sources(package: Path) -> None:
    sources = kernel_sources(package)
    assert [path.name for path in sources] == ["inner.py", "outer.py"]
    before = hash_of_sources(package, sources)
    (package / "other.py").write_text("x = 1\n")
    assert hash_of_sources(package, kernel_sources(package)) == before
    (package / "inner.py").rename(package / "moved.py")
    assert hash_of_sources(package, kernel_sources(package)) != before


def test_what_no_run_used_for_long_is_removed_and_a_chosen_folder_is_left_alone(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, recent = (tmp_path / "cache" / "zhiyin-test-kernels" / name for name in ("old", "recent"))
    for folder, days in ((old, MAX_AGE_DAYS + 1), (recent, MAX_AGE_DAYS - 1)):
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - days * 86400,) * 2)
    used = use_kernel_cache(package)
    assert used is not None
    assert used.is_dir()
    assert (old.exists(), recent.exists()) == (False, True)
    assert use_kernel_cache(package) is None  # NUMBA_CACHE_DIR is set now


def test_a_cache_that_cannot_be_written_is_no_error(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert use_kernel_cache(package) is None
    assert "NUMBA_CACHE_DIR" not in os.environ


def test_every_kernel_of_the_package_is_in_the_key() -> None:
    root = Path(zhiyin.__file__).parent
    names = [path.relative_to(root.parent).with_suffix("").as_posix().replace("/", ".") for path in kernel_sources()]
    modules = [importlib.import_module(name) for name in names if "sequence" not in name]  # these would load torch
    loaded = [module for name, module in list(sys.modules.items()) if name.startswith("zhiyin")]
    defining = {
        value.py_func.__module__ for module in [*modules, *loaded] for value in vars(module).values()
        if isinstance(value, CPUDispatcher)
    }  # fmt: skip
    assert len(defining) > 30
    assert defining <= set(names)
