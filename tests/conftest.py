"""What every test may use: real data where it is, and a terminal without colours."""

from __future__ import annotations

import gc
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from tests.examples import USUAL

# The same examples each time, and no clock: the first call of a kernel compiles it. `--hypothesis-profile fast` takes
# fewer of them.
settings.register_profile("zhiyin", deadline=None, derandomize=True, max_examples=USUAL)
settings.register_profile("fast", deadline=None, derandomize=True, max_examples=USUAL // 4)
settings.load_profile("zhiyin")
# Who takes one of these starts a browser, a server of a database or Spark: its tests are marked slow.
SLOW_FIXTURES = {"chromium", "cluster", "postgres", "redis_url", "spark"}
# Tests of `zhiyin.testing`, whose users have no such mark, that fit a ranker of their own.
SLOW_CONFORMANCE = {"test_calibrated_chances_are_right_on_average", "test_the_same_seed_learns_the_same"}
# Further slow ones, a line each: cases that took more than a sixth of a second when all fast tests were timed.
SLOW_CASES = frozenset(Path(__file__).with_name("slow_cases.txt").read_text(encoding="utf-8").splitlines())
os.environ.setdefault("NO_COLOR", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two test processes on two cores: threads that wait must not spin
os.environ.setdefault("COLUMNS", "120")
os.environ.setdefault("POLARS_MAX_THREADS", "2")
# Programs that tests start find compiled what the first of them compiled: Python's code, and kernels.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if not os.environ.get("NUMBA_CACHE_DIR"):
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ["NUMBA_CACHE_DIR"] = str(caches / "zhiyin-test-kernels")
# Half a million objects of packages and tests live until the end: the collector need not look at them again and again.
GC_THRESHOLDS = (10_000, 20, 20)
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fits = getattr(item, "originalname", "") in SLOW_CONFORMANCE
        if fits or item.nodeid in SLOW_CASES or SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data("movielens-100k")`: the path of a set under ZHIYIN_DATA, or the test is skipped."""

    def find(name: str) -> Path:
        root = os.environ.get("ZHIYIN_DATA")
        if not root:
            pytest.skip(f"ZHIYIN_DATA is not set: {name} is needed")
        path = Path(root).resolve() / name
        if not path.exists():
            pytest.skip(f"ZHIYIN_DATA holds no {name}")
        return path

    return find


def _as_nobody(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return command
    names = {user.pw_name for user in pwd.getpwall()}
    return ["runuser", "-u", "postgres" if "postgres" in names else "nobody", "--", *command]


def own_schema(address: str) -> str:
    """The address of a new schema of that PostgreSQL: made and removed much faster than a database."""
    import psycopg

    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return f"{address}&options=-csearch_path%3D{name}"


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs; None where it is not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    beside = shutil.which("initdb")
    if installed:
        return installed[-1]
    return Path(beside).parent if beside else None


@contextmanager
def postgres_server(port: int | None = None, password: str = "") -> Iterator[Path]:
    """A PostgreSQL of its own in a temporary folder, with the user zhiyin: its folder, where its socket is too.

    port: of 127.0.0.1, where it listens then instead of on a socket.
    password: that clients need then.
    """
    pytest.importorskip("psycopg")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb on the path or in /usr/lib/postgresql")
    folder = Path(tempfile.mkdtemp(prefix="zy-pg-"))  # short: the path of a socket has at most 107 characters
    folder.chmod(0o777)
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": "/"}
    control = [str(programs / "pg_ctl"), "-D", str(folder / "data")]
    access = ["-A", "trust"]
    if password:
        (folder / "password").write_text(password)
        access = ["-A", "scram-sha-256", "--pwfile", str(folder / "password")]
    try:
        subprocess.run(
            _as_nobody([str(programs / "initdb"), "-D", str(folder / "data"), *access, "-U", "zhiyin", "-N"]), **quiet
        )
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        if port is not None:
            options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
        start = [*control, "-w", "-t", "60", "-l", str(folder / "log"), "-o", options, "start"]
        subprocess.run(_as_nobody(start), **quiet)
        yield folder
    finally:
        subprocess.run(_as_nobody([*control, "-m", "immediate", "stop"]), stdout=subprocess.DEVNULL, cwd="/")
        time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL of its own, on a socket in a temporary folder."""
    with postgres_server() as folder:
        yield f"postgresql://zhiyin@/postgres?host={folder}"
