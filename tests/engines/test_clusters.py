"""Real clusters, standalone and Spark Connect: progress, Ctrl-C, and models that are those of a single process, with a
worker killed on the way."""

from __future__ import annotations

import filecmp
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engines.clusters import SRC, Cluster, running, start_connect, start_standalone
from tests.engines.conftest import need_spark
from tests.engines.database import PASSWORD, database_of_events, missing_for_postgres
from tests.engines.fit_on_engine import data, models
from tests.engines.wait_on_engine import TASKS
from zhiyin.data.reading import read
from zhiyin.models.state_files import TRAINING_LOG_FILE

pytestmark = pytest.mark.slow
FIT_SECONDS = 400
WAIT_SECONDS = 300


@pytest.fixture(scope="module")
def database() -> Iterator[str | None]:
    """The address of a database; None where there is none to be had, which `test_postgres` says."""
    if missing_for_postgres():
        yield None
        return
    with database_of_events() as url:
        yield url


@pytest.fixture(scope="module")
def single_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of `fit_on_engine`, of one process."""
    folder = tmp_path_factory.mktemp("single")
    for number, model in enumerate(models()):
        model.fit(data()).save(folder / str(number))
    return folder


def fit(cluster: Cluster, url: str, folder: Path, kill: str = "") -> None:
    """Fit on a cluster. kill: a worker to be killed in the second epoch."""
    (folder / "shared").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engines.fit_on_engine", url, str(folder / "shared"), str(folder / "models")],
        env=cluster.env, cwd=SRC.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    timer = threading.Timer(FIT_SECONDS, process.kill)
    timer.start()
    assert process.stdout is not None
    assert process.stderr is not None
    epochs = []
    for line in process.stdout:
        epochs.append(line)
        if kill and len(epochs) == 1:
            cluster.kill(kill)
    errors = process.stderr.read()
    assert process.wait() == 0, errors
    timer.cancel()
    assert len(epochs) == 4


def interrupt(cluster: Cluster, url: str, folder: Path, database: str | None) -> None:
    """Watch a job's progress on a cluster, read a database, then interrupt a job without end: its tasks end."""
    query = ["SELECT seq, user_id, item_id, at FROM events ORDER BY seq"]
    source = [database, *query] if database is not None else []
    shared, marks = folder / "shared", folder / "marks"
    shared.mkdir()
    marks.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engines.wait_on_engine", url, str(shared), str(marks), *source],
        env=cluster.env, cwd=SRC.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: len(list(marks.iterdir())) == 2, process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=WAIT_SECONDS)
    finally:
        process.kill()
    assert process.returncode not in (0, -signal.SIGKILL), errors
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    # The bar of the second job is not shown.
    lines = [line.split() for line in output.splitlines()]
    assert [line for line in lines if line[0] == "total"] == [["total", str(TASKS)]]
    assert 1 <= sum(int(number) for word, number in lines if word == "advanced") <= TASKS
    if database is not None:
        wanted = read(database, query=query[0]).fingerprint
        assert [line[1] for line in lines if line[0] == "read"] == [wanted]
        assert not [log for log in folder.glob("*.log") if PASSWORD in log.read_text(errors="replace")]
    assert not list(shared.iterdir())
    workers = [int(mark.name) for mark in marks.iterdir()]
    wait_until(lambda: not any(map(is_alive, workers)))
    shared.rmdir()


def wait_until(holds: Callable[[], bool], producer: subprocess.Popen[str] | None = None) -> None:
    """Wait for a condition. producer: a process without which it will never hold."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it takes too long"
        assert producer is None or producer.poll() is None, producer.communicate()[1]
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not waited for does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def assert_same_models(folder: Path, expected: Path) -> None:
    for number in range(len(models())):
        names = sorted(one.name for one in (expected / str(number)).iterdir() if one.name != TRAINING_LOG_FILE)
        equal = filecmp.cmpfiles(folder / str(number), expected / str(number), names, shallow=False)
        assert equal == (names, [], [])


def test_a_cluster_is_interrupted_and_loses_a_worker_and_gives_the_same_models(
    tmp_path: Path, single_process: Path, database: str | None
) -> None:
    need_spark()
    with running(tmp_path) as cluster:
        url = start_standalone(cluster)
        interrupt(cluster, url, tmp_path, database)
        fit(cluster, url, tmp_path, kill="worker-1")
    assert_same_models(tmp_path / "models", single_process)
    assert not list((tmp_path / "shared").iterdir())


def test_spark_connect_is_interrupted_and_gives_the_same_models(
    tmp_path: Path, single_process: Path, database: str | None
) -> None:
    need_spark()
    pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'zhiyin[spark]'")
    with running(tmp_path) as cluster:
        url = start_connect(cluster)
        interrupt(cluster, url, tmp_path, database)
        fit(cluster, url, tmp_path)
    assert_same_models(tmp_path / "models", single_process)
