"""One session of Spark for all tests of this room; without Java, or without pyspark, they skip and say so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from zhiyin.engines.spark.engine import SparkEngine


def need_spark() -> None:
    """Skip the test where Spark cannot run."""
    pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'zhiyin[spark]'")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Java 17 is not installed: Spark needs it")


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkEngine]:
    """An engine of two threads of this machine."""
    need_spark()
    from zhiyin.engines import open_engine

    with open_engine("local[2]") as engine:
        yield engine


@pytest.fixture
def notes(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, notes included."""
    caplog.set_level("INFO", logger="zhiyin")
    return caplog


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first tests wait for a session, and for kernels that workers compile."""
    for item in items:
        if "engines" in item.path.parts:
            item.add_marker(pytest.mark.timeout(600))
