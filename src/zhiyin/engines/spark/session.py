"""Sessions of Spark: in this process, on a cluster, or at a Connect server."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zhiyin.core.errors import ConfigError, EngineError
from zhiyin.engines.spark.job_errors import cause_of_java_output, first_cause, is_of_spark

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
    _need_listener(url)
    settings = {"spark.sql.adaptive.enabled": "false", "spark.sql.execution.arrow.maxRecordsPerBatch": ROWS_PER_BATCH}
    try:
        if url.startswith("sc://"):
            return _connect(url, {**settings, **options})
        _need_java()
        _need_no_session()
        return _start_driver(url, {**settings, **_process_settings(url, folder), **options}, folder)
    except Exception as error:
        if not is_of_spark(error):
            raise
        raise _no_session(url, error) from None


def _connect(url: str, settings: Mapping[str, Any]) -> Any:
    """A session at a Connect server."""
    from pyspark.sql import SparkSession

    session = SparkSession.builder.remote(url).create()
    for name, value in settings.items():
        session.conf.set(name, str(value))
    return session


def _start_driver(url: str, settings: Mapping[str, Any], folder: Path) -> Any:
    """A session whose driver is a Java process of this one; where it cannot be opened that process is ended."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.master(url).appName("zhiyin")
    for name, value in settings.items():
        builder = builder.config(name, str(value))
    logging.getLogger().addFilter(_is_not_of_py4j)
    with _same_interrupt_handler():
        try:
            _start_gateway({"spark.master": url, "spark.app.name": "zhiyin", **settings}, folder)
            return builder.getOrCreate()
        except BaseException as error:
            # An exception of Java is a text only as long as its process can be asked.
            failure = _no_session(url, error) if is_of_spark(error) else None
            stop_gateway()
            if failure is None:
                raise
            raise failure from None


def _no_session(url: str, error: BaseException) -> EngineError:
    return EngineError(f"{url} cannot be opened: {first_cause(error)}", remedy="check its address and its log")


def _start_gateway(settings: Mapping[str, Any], folder: Path) -> None:
    """Start the Java process of the driver, unless there is one.

    What it writes goes into a file of the folder. Raises EngineError with the first cause where it ends at once.
    """
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkException
    from pyspark.java_gateway import launch_gateway

    if SparkContext._gateway is not None:
        return
    conf = SparkConf(loadDefaults=False)
    for name, value in settings.items():
        conf.set(name, str(value))
    output = folder / "driver.log"
    try:
        with open(output, "wb") as file:
            gateway = launch_gateway(conf, {"stdout": file, "stderr": subprocess.STDOUT})
    except PySparkException as error:
        cause = cause_of_java_output(output.read_text(errors="replace")) or first_cause(error)
        raise EngineError(
            f"Java does not start: {cause}", remedy="check JAVA_HOME, and spark.* of --engine-option"
        ) from None
    SparkContext._ensure_initialized(gateway=gateway)


@contextlib.contextmanager
def _same_interrupt_handler() -> Iterator[None]:
    """Put the handler of SIGINT back at the end.

    That of a new session asks Java, perhaps in the midst of another question to it; jobs of this package are cancelled
    by those who wait for them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if handler is not None:  # None: it was not set by Python
            signal.signal(signal.SIGINT, handler)


def _is_not_of_py4j(record: logging.LogRecord) -> bool:
    """A filter of the root logger: py4j logs tracebacks of what it raises, and of Ctrl-C, there."""
    return Path(record.pathname).parent.name != "py4j"


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
    """Raise ConfigError where the program is missing that Spark would start: that of JAVA_HOME if it is set."""
    home = os.environ.get("JAVA_HOME")
    if home:
        if not os.access(os.path.join(home, "bin", "java"), os.X_OK):
            raise ConfigError(
                f"JAVA_HOME is {home}, which has no bin/java", remedy="set it to Java 17 or later, or unset it"
            )
    elif not shutil.which("java"):
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
