"""The cache of compiled kernels: what it is keyed by, that it holds every kernel, and where it lies."""

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

from zhiyin.core import kernel_cache
from zhiyin.core.kernel_cache import MAX_AGE_DAYS, PACKAGE, kernel_hash, kernel_sources, sweep

INNER = "from zhiyin.core.parallel import compiled\n@compiled\ndef inner(x):\n    return x + 1\n"
OUTER = """from zhiyin.core.pair_factor import FACTOR
from zhiyin.core.pair_inner import inner
from zhiyin.core.parallel import compiled
@compiled
def outer(x):
    return FACTOR * inner(x)
"""
ASK = """
import logging
logging.basicConfig(level=logging.INFO)
from zhiyin.core.pair_outer import outer
print(outer(1), len(outer.stats.cache_hits), outer.stats.cache_path)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the package with two more kernels in two files, one calling the other, and a constant in a third."""
    return install(tmp_path / "first")


def install(folder: Path) -> Path:
    package = folder / "zhiyin"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "core" / "pair_factor.py").write_text("FACTOR = 10\n")
    (package / "core" / "pair_inner.py").write_text(INNER)
    (package / "core" / "pair_outer.py").write_text(OUTER)
    return package


def outer(package: Path, *, nobody: bool = False, **environment: str) -> tuple[int, int, Path, str]:
    """outer(1) in a new process, how many kernels of it were found compiled, where, and what was logged."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", ASK], env={**inherited, "PYTHONPATH": str(package.parent), **environment},
        capture_output=True, text=True, check=False, user="nobody" if nobody else None, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    value, hits, place = done.stdout.split()
    return int(value), int(hits), Path(place), done.stderr


def edit(package: Path, name: str, old: str, new: str) -> None:
    file = package / "core" / name
    status = file.stat()
    file.write_text(file.read_text().replace(old, new))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a wheel that is built reproducibly


@pytest.mark.slow
def test_versions_side_by_side_and_an_upgrade_in_place(installed: Path, tmp_path: Path) -> None:
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert outer(installed, **cache)[:2] == (20, 0)
    other = install(tmp_path / "second")
    assert outer(other, **cache)[:2] == (20, 1), "the same sources at another path"
    edit(other, "pair_inner.py", "x + 1", "x + 2")  # Numba itself looks at pair_outer.py alone
    assert outer(other, **cache)[:2] == (30, 0)
    edit(other, "pair_factor.py", "10", "11")
    assert outer(other, **cache)[:2] == (33, 0)
    assert outer(other, **cache)[:2] == (33, 1)
    assert outer(installed, **cache)[:2] == (20, 1), "what the other one compiled has not touched this one's"
    assert len(list((tmp_path / "cache").glob("zhiyin-*"))) == 3


@pytest.mark.slow
def test_where_it_lies(installed: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    where = outer(installed, HOME=str(home))[2]
    assert where.is_relative_to(installed / "__pycache__" / "kernels")
    assert where.name == "core"
    where = outer(installed, NUMBA_CACHE_DIR=str(tmp_path / "chosen"), HOME=str(home))[2]
    assert where.is_relative_to(tmp_path / "chosen")


@pytest.fixture
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation that the one who runs it cannot write: of root, run by nobody."""
    if os.getuid() != 0:
        pytest.skip("needs root, who can become nobody")
    try:
        subprocess.run([sys.executable, "-c", "import numba"], user="nobody", cwd="/", check=True, capture_output=True)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("this Python is not one that nobody may run")
    package = install(tmp_path_factory.mktemp("installed"))
    folder = package
    while folder != folder.parent:
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
        folder = folder.parent
    return package


@pytest.mark.slow
def test_an_installation_that_cannot_be_written(read_only: Path) -> None:
    scratch = read_only.parents[1] / "scratch"
    scratch.mkdir(exist_ok=True)
    scratch.chmod(0o777)
    home = scratch / "home"
    home.mkdir()
    home.chmod(0o777)
    value, _, where, said = outer(read_only, nobody=True, HOME=str(home))
    assert (value, said) == (20, "")
    assert where.is_relative_to(home / ".cache" / "zhiyin")
    assert outer(read_only, nobody=True, HOME=str(home))[1] == 1
    temporary = scratch / "tmp"
    temporary.mkdir()
    temporary.chmod(0o777)
    nowhere = {"HOME": "/proc/none", "TMPDIR": str(temporary)}
    value, _, where, said = outer(read_only, nobody=True, **nowhere)
    assert value == 20
    assert where.is_relative_to(temporary)
    assert "NUMBA_CACHE_DIR" in said
    assert said.count("compiled code is kept") == 1
    (private,) = temporary.iterdir()
    shutil.rmtree(private)
    private.mkdir()
    private.chmod(0o777)  # anybody could put code there, so it is not used
    code = ASK.replace("outer.stats.cache_path", "'nowhere'")
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], env={"PYTHONPATH": str(read_only.parent), **nowhere}, user="nobody",
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    assert done.stdout.split()[0] == "20"
    assert "each start compiles anew" in done.stderr
    assert list(private.iterdir()) == []


def test_the_key_is_names_and_text_of_the_sources(tmp_path: Path) -> None:
    package = tmp_path / "pair"
    package.mkdir()
    kernel = "@kernel\ndef inner(x):\n    return x\n"
    (package / "inner.py").write_text(f"from pair.numbers import (\n    FACTOR,\n)\n{kernel}")
    (package / "numbers.py").write_text("FACTOR = 1\n")
    (package / "words.py").write_text("x = 1\n")
    assert [path.name for path in kernel_sources(package)] == ["inner.py", "numbers.py"]
    before = kernel_hash(package)
    (package / "words.py").write_text("x = 2\n")
    assert kernel_hash(package) == before
    (package / "inner.py").rename(package / "moved.py")
    moved = kernel_hash(package)
    assert moved != before
    (package / "numbers.py").write_text("FACTOR = 2\n")
    assert kernel_hash(package) not in (before, moved)


def test_another_processor_and_another_compiler_have_others(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {kernel_hash()}
    with monkeypatch.context() as patch:
        patch.setattr(kernel_cache.llvmlite.binding, "get_host_cpu_name", lambda: "another")
        hashes.add(kernel_hash())
    for package in ("numba", "llvmlite"):
        with monkeypatch.context() as patch:
            patch.setattr(kernel_cache.metadata, "version", lambda name, of=package: "0" if name == of else "1")
            hashes.add(kernel_hash())
    assert len(hashes) == 4


def test_what_no_start_used_for_long_is_removed(tmp_path: Path) -> None:
    ages = {"zhiyin-old": MAX_AGE_DAYS + 1, "zhiyin-recent": MAX_AGE_DAYS - 1, "models_of-others": 1_000}
    for name, days in ages.items():
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - days * 86_400,) * 2)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models_of-others", "zhiyin-recent"]


def test_every_kernel_of_the_package_is_in_the_key() -> None:
    names = [path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".") for path in kernel_sources()]
    modules = [importlib.import_module(name) for name in names if "sequence" not in name]  # these would load torch
    loaded = [module for name, module in list(sys.modules.items()) if name.startswith("zhiyin")]
    defining = {
        value.py_func.__module__ for module in [*modules, *loaded] for value in vars(module).values()
        if isinstance(value, CPUDispatcher)
    }  # fmt: skip
    assert len(defining) > 30
    assert defining <= set(names)
