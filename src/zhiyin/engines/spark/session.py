"""Sessions of Spark: in this process, on a cluster, or at a Connect server."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from zhiyin.core.errors import ConfigError, EngineError
from zhiyin.engines.spark.job_errors import first_cause

# Tasks run one thread each: a worker has as many of them as it has cores.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
ROWS_PER_BATCH = 100_000
CONNECT_SECONDS = 10.0
# Without an appender Spark takes it for no configuration and loads its own; at another level than WARN it says so.
_NO_LOG = """appender.none.type = Null
appender.none.name = none
rootLogger.level = warn
rootLogger.appenderRef.none.ref = none
"""
_LOOPBACK = ("127.0.0.1", "localhost")


def start_session(url: str, options: dict[str, str], folder: Path) -> Any:
    """A session of Spark.

    Parameters
    ----------
    folder: for files that the Java process of the driver needs.

    Raises ConfigError without Java, EngineError where the address does not answer."""
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    _need_listener(url)
    settings = {"spark.sql.adaptive.enabled": "false", "spark.sql.execution.arrow.maxRecordsPerBatch": ROWS_PER_BATCH}
    try:
        if url.startswith("sc://"):
            session = SparkSession.builder.remote(url).create()
            for name, value in {**settings, **options}.items():
                session.conf.set(name, str(value))
            return session
        _need_java()
        _need_no_session()
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = SparkSession.builder.master(url).appName("zhiyin")
        for name, value in {**settings, **_process_settings(url, folder), **options}.items():
            builder = builder.config(name, str(value))
        return builder.getOrCreate()
    except PySparkException as error:
        raise _no_session(url, error) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("py4j", "grpc"):
            raise
        stop_gateway()
        raise _no_session(url, error) from None


def _no_session(url: str, error: Exception) -> EngineError:
    return EngineError(f"{url} cannot be opened: {first_cause(error)}", remedy="check its address and its log")


def _need_listener(url: str) -> None:
    """Raise EngineError where nobody listens at an address; Spark would try again for minutes."""
    scheme, _, place = url.partition("://")
    if scheme not in ("spark", "sc"):
        return
    hosts = place.partition("/")[0].split(",")
    failures = []
    for address in hosts:
        host, _, port = address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
                return
        except ValueError:
            raise ConfigError(f"{url!r} names no host and port", remedy=f"write {scheme}://host:port") from None
        except OSError as error:
            failures.append(f"{address}: {error.strerror or error}")
    raise EngineError(f"{url} cannot be opened: {'; '.join(failures)}", remedy="check its address, and that it runs")


def _process_settings(url: str, folder: Path) -> dict[str, Any]:
    """Settings of a session whose driver is this process."""
    # What fails is raised here as one line; the log of the driver would say it in two hundred.
    quiet = folder / "log4j2.properties"
    quiet.write_text(_NO_LOG)
    settings: dict[str, Any] = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={quiet}",
        "spark.driver.maxResultSize": "0",
        **{f"spark.executorEnv.{name}": "1" for name in THREAD_VARIABLES},
    }
    if url.startswith("local") or url.partition("://")[2].partition(":")[0] in _LOOPBACK:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    return settings


def _need_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if not (shutil.which("java") or (home and os.path.exists(os.path.join(home, "bin", "java")))):
        raise ConfigError("Spark needs Java 17 or later, and there is none", remedy="install it, or set JAVA_HOME")


def _need_no_session() -> None:
    from pyspark import SparkContext

    if SparkContext._active_spark_context is not None:
        raise ConfigError("this process has a session of Spark already", remedy="stop it before an engine is opened")


def stop_session(session: Any) -> None:
    """End a session, and the Java process that this process started for it."""
    with contextlib.suppress(Exception):
        session.stop()
    if not is_connect(session):
        stop_gateway()


def stop_gateway() -> None:
    """End the Java process behind the driver: `stop` of a session leaves it running until Python ends."""
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    if gateway is None:
        return
    SparkContext._gateway = SparkContext._jvm = None
    with contextlib.suppress(Exception):
        gateway.shutdown()
    process = getattr(gateway, "proc", None)
    if process is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()  # it ends when its standard input does
        process.wait(30)


def is_connect(session: Any) -> bool:
    """Whether a session belongs to a Connect server."""
    return ".connect." in type(session).__module__
