"""The engine that an address names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from zhiyin.core.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from zhiyin.engines.spark.engine import SparkEngine

# Threads, and failures of a task that are borne, are at least 1.
_URL = re.compile(r"local(\[\s*(\*|0*[1-9]\d*)\s*(,\s*0*[1-9]\d*\s*)?\])?|yarn|(spark|sc|k8s)://.+")


def open_engine(
    url: str, folder: str | os.PathLike[str] | None = None, options: Mapping[str, str] | None = None
) -> SparkEngine:
    """Open an engine; it is closed by `close`, or at the end of a `with` block.

    Parameters
    ----------
    url: "local[*]" (threads of this machine; "local[2]" two of them), "spark://host:7077" (a standalone cluster),
        "yarn", "k8s://..." or "sc://host:15002" (Spark Connect).
    folder: a folder that this process and all workers see under the same path, for blocks and results. What is written
        there is removed when the engine is closed. None: a temporary folder, for "local" only.
    options: settings of Spark, such as {"spark.executor.memory": "8g"}; they overrule those that are set here.

    Raises ConfigError for an address that no engine has, and for a cluster without a folder; MissingExtraError where
    the engine is not installed; EngineError where it does not start or its workers do not see the folder.
    """
    if not _URL.fullmatch(url):
        raise ConfigError(
            f"{url!r} is the address of no engine",
            remedy="local[*], local[2], spark://host:7077, sc://host:15002, k8s://..., yarn",
        )
    if folder is None and not url.startswith("local"):
        raise ConfigError(
            f"{url} needs a folder that its workers see too", remedy="folder=..., on the command line --engine-folder"
        )
    try:
        import pyarrow  # noqa: F401
        import pyspark  # noqa: F401
    except ImportError:
        raise MissingExtraError("pyspark", "spark", f"the engine {url}") from None
    from zhiyin.engines.spark.engine import SparkEngine

    return SparkEngine.open(url, folder, dict(options or {}))
