"""The same models from real clusters: standalone with a worker killed on the way, and Spark Connect."""

from __future__ import annotations

import filecmp
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.engines.clusters import SRC, Cluster, running, start_connect, start_standalone
from tests.engines.conftest import need_spark
from tests.engines.fit_on_engine import data, models

pytestmark = pytest.mark.slow
FIT_SECONDS = 400


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


def assert_same_models(folder: Path, expected: Path) -> None:
    for number in range(len(models())):
        names = sorted(path.name for path in (expected / str(number)).iterdir())
        equal = filecmp.cmpfiles(folder / str(number), expected / str(number), names, shallow=False)
        assert equal == (names, [], [])


def test_a_cluster_that_loses_a_worker_gives_the_same_models(tmp_path: Path, single_process: Path) -> None:
    need_spark()
    with running(tmp_path) as cluster:
        fit(cluster, start_standalone(cluster), tmp_path, kill="worker-1")
    assert_same_models(tmp_path / "models", single_process)
    assert not list((tmp_path / "shared").iterdir())


def test_spark_connect_gives_the_same_models(tmp_path: Path, single_process: Path) -> None:
    need_spark()
    pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'zhiyin[spark]'")
    with running(tmp_path) as cluster:
        fit(cluster, start_connect(cluster), tmp_path)
    assert_same_models(tmp_path / "models", single_process)
