"""The configuration of a local standalone cluster of Flink, made from the one that the package brings."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

from zhiyin.core.atomic_files import write_whole
from zhiyin.core.errors import EngineError

HOST = "127.0.0.1"
# Memory in MiB. The JVMs are started without Flink's shell scripts, which would compute these; their sum is what a
# process takes. JobManager 592, TaskManager 1,504.
JOBMANAGER = {"heap": 320, "off-heap": 48, "metaspace": 160, "overhead": 64}
TASKMANAGER = {
    "framework heap": 128, "task heap": 480, "framework off-heap": 128, "network": 160, "managed": 256,
    "metaspace": 192, "overhead": 160,
}  # fmt: skip
_JAVA_OPTIONS = re.compile(r"^      all: *(.+)$", re.M)


def java_options(flink_home: Path) -> list[str]:
    """Options that Flink needs on Java 17, of the package's own configuration (env.java.opts.all)."""
    config = flink_home / "conf" / "config.yaml"
    found = _JAVA_OPTIONS.search(config.read_text()) if config.is_file() else None
    if found is None:
        raise EngineError("env.java.opts.all is missing", file=config, remedy="install apache-flink again")
    return found[1].strip().strip('"').split()


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 on which nobody listens now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def write_config(folder: Path, flink_home: Path, rpc_port: int, rest_port: int, slots: int) -> None:
    """Write a FLINK_CONF_DIR: config.yaml and the settings of logs of the package.

    Parameters
    ----------
    folder: the folder of the cluster; the configuration is in `conf`, temporary files in `tmp`.
    slots: of one TaskManager.
    """
    conf = folder / "conf"
    conf.mkdir(parents=True, exist_ok=True)
    for source in (flink_home / "conf").glob("log*"):
        shutil.copyfile(source, conf / source.name)
    megabytes = {name: f"{size}m" for name, size in TASKMANAGER.items()}
    settings = {
        "env.java.opts.all": " ".join(java_options(flink_home)),
        "jobmanager.rpc.address": HOST,
        "jobmanager.rpc.port": rpc_port,
        "jobmanager.bind-host": HOST,
        "jobmanager.memory.heap.size": f"{JOBMANAGER['heap']}m",
        "jobmanager.memory.off-heap.size": f"{JOBMANAGER['off-heap']}m",
        "jobmanager.memory.jvm-metaspace.size": f"{JOBMANAGER['metaspace']}m",
        "rest.address": HOST,
        "rest.bind-address": HOST,
        "rest.port": rest_port,
        "rest.bind-port": rest_port,
        "web.submit.enable": "false",  # no upload of jars; jobs are submitted as graphs
        "taskmanager.host": HOST,
        "taskmanager.bind-host": HOST,
        "taskmanager.numberOfTaskSlots": slots,
        "taskmanager.cpu.cores": float(slots),
        "taskmanager.memory.framework.heap.size": megabytes["framework heap"],
        "taskmanager.memory.task.heap.size": megabytes["task heap"],
        "taskmanager.memory.framework.off-heap.size": megabytes["framework off-heap"],
        "taskmanager.memory.task.off-heap.size": "0m",
        "taskmanager.memory.network.min": megabytes["network"],
        "taskmanager.memory.network.max": megabytes["network"],
        "taskmanager.memory.managed.size": megabytes["managed"],
        "taskmanager.memory.jvm-metaspace.size": megabytes["metaspace"],
        "taskmanager.memory.jvm-overhead.min": megabytes["overhead"],
        "taskmanager.memory.jvm-overhead.max": megabytes["overhead"],
        # A TaskManager that is killed refuses connections: two lost heartbeats are enough. One that is only slow is
        # given the whole timeout.
        "heartbeat.interval": "1s",
        "heartbeat.timeout": "30s",
        "heartbeat.rpc-failure-threshold": 2,
        "cluster.registration.initial-timeout": "100ms",
        "cluster.registration.max-timeout": "2s",
        "slot.request.timeout": "300s",
        "metrics.fetcher.update-interval": "2s",
        "io.tmp.dirs": str(folder / "tmp"),
        "web.tmpdir": str(folder / "tmp"),
        "parallelism.default": 1,
    }
    lines = [f"{name}: {_scalar(value)}" for name, value in settings.items()]
    write_whole(conf / "config.yaml", "\n".join(lines) + "\n")


def _scalar(value: object) -> str:
    """A value of YAML: texts in double quotes, so that no character of a path means anything."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


def jobmanager_memory() -> list[str]:
    """Options of the JVM of a JobManager."""
    heap, off_heap, metaspace = JOBMANAGER["heap"], JOBMANAGER["off-heap"], JOBMANAGER["metaspace"]
    return [f"-Xms{heap}m", f"-Xmx{heap}m", f"-XX:MaxDirectMemorySize={off_heap}m",
            f"-XX:MaxMetaspaceSize={metaspace}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]  # fmt: skip


def taskmanager_memory() -> list[str]:
    """Options of the JVM of a TaskManager."""
    heap = TASKMANAGER["framework heap"] + TASKMANAGER["task heap"]
    direct = TASKMANAGER["framework off-heap"] + TASKMANAGER["network"]
    return [f"-Xms{heap}m", f"-Xmx{heap}m", f"-XX:MaxDirectMemorySize={direct}m",
            f"-XX:MaxMetaspaceSize={TASKMANAGER['metaspace']}m", "-XX:+UseG1GC"]  # fmt: skip
