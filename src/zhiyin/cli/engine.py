"""Options of the engine, shared by the commands that can work on one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zhiyin.core.errors import ConfigError

if TYPE_CHECKING:
    from zhiyin.engines.spark.engine import SparkEngine
    from zhiyin.engines.spark.work import SparkWork

FOLDER = ".engine"


@contextmanager
def opened_engine(
    url: str | None, folder: Path | None, options: Sequence[str] | None, home: Path
) -> Iterator[SparkEngine | None]:
    """The engine that the options name, closed at the end; None where they name none.

    Parameters
    ----------
    home: folder of the project, below which the shared folder of an engine is that has workers on other machines.

    Raises ConfigError for options of an engine without one.
    """
    if url is None:
        if folder is not None or options:
            raise ConfigError("--engine-folder and --engine-option are of an engine", remedy="name it: --engine")
        yield None
        return
    from zhiyin.engines import open_engine

    if folder is None and not url.startswith("local"):
        folder = home / FOLDER
    with open_engine(url, folder, dict(map(_option, options or ()))) as engine:
        yield engine


@contextmanager
def opened_work(
    url: str | None, folder: Path | None, options: Sequence[str] | None, home: Path
) -> Iterator[SparkWork | None]:
    """As `opened_engine`: what reads, fits and evaluates on the engine."""
    with opened_engine(url, folder, options, home) as engine:
        if engine is None:
            yield None
            return
        from zhiyin.engines.spark.work import SparkWork

        yield SparkWork(engine)


def _option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--engine-option {text!r} is no key and value", remedy="write spark.executor.memory=8g")
    return key.strip(), value.strip()
