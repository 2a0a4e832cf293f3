"""Real clusters of the installed package on 127.0.0.1: processes in sessions of their own, all of them ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SRC = Path(__file__).parents[2] / "src"
# In the environment of all processes of a cluster, also of those that they start.
TOKEN = "ZHIYIN_TEST_CLUSTER"
START_SECONDS = 120


class Cluster:
    """Processes that were started together."""

    def __init__(self, folder: Path) -> None:
        import pyspark

        self.home, self.folder, self.token = Path(pyspark.__file__).parent, folder, uuid.uuid4().hex
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.env = os.environ | {
            TOKEN: self.token, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_NO_DAEMONIZE": "1", "SPARK_DAEMON_MEMORY": "512m",
            "SPARK_HOME": str(self.home), "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": f"{SRC}:{SRC.parent}",
            "SPARK_WORKER_DIR": str(folder / "work"), "SPARK_LOG_DIR": str(folder),
        }  # fmt: skip

    def start(self, name: str, *command: str, port: int) -> None:
        """Start a program of the package and wait until it listens."""
        log = open(self.folder / f"{name}.log", "wb")  # noqa: SIM115
        with log:
            process = subprocess.Popen(
                [str(self.home / "bin" / command[0]), *command[1:]],
                env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.processes[name] = process
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"{name} does not listen: {(self.folder / f'{name}.log').read_text()[-2000:]}")

    def kill(self, name: str) -> None:
        """Kill one process, and nothing that it started."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def survivors(self) -> list[int]:
        """Processes of the cluster that are still there."""
        wanted = f"{TOKEN}={self.token}".encode()
        pids = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    pids.append(int(folder.name))
            except OSError:
                continue
        return pids

    def end_survivors(self, seconds: float = 30) -> list[int]:
        """Wait until nothing is left; what is left then is killed and returned."""
        deadline = time.monotonic() + seconds
        while (left := self.survivors()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return left


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster without processes yet; at the end none is left, or the test fails."""
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.stop()
        left = cluster.end_survivors()
    assert not left, "processes outlived their cluster"


def start_standalone(cluster: Cluster, memory: str = "1g") -> str:
    """A master and two workers of one core. Returns their address."""
    port = free_port()
    master = ("spark-class", "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", str(port))
    cluster.start("master", *master, "--webui-port", str(free_port()), port=port)
    for number in (1, 2):
        own = free_port()
        worker = ("spark-class", "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--port", str(own))
        size = ("--cores", "1", "--memory", memory, "--webui-port", str(free_port()))
        cluster.start(f"worker-{number}", *worker, *size, f"spark://127.0.0.1:{port}", port=own)
    return f"spark://127.0.0.1:{port}"


def start_connect(cluster: Cluster) -> str:
    """A Connect server with two threads. Returns its address."""
    port = free_port()
    settings = {
        "spark.connect.grpc.binding.address": "127.0.0.1", "spark.connect.grpc.binding.port": str(port),
        "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false",
        "spark.connect.progress.reportInterval": "200ms",
    }  # fmt: skip
    flags = [part for name, value in settings.items() for part in ("--conf", f"{name}={value}")]
    server = ("--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "--master", "local[2]", *flags)
    cluster.start("connect", "spark-submit", *server, "spark-internal", port=port)
    return f"sc://127.0.0.1:{port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
