"""Run a job on an engine and print its progress, read a query if there is one and print what the data set is, then run
a job without end, until this process is interrupted.

python -m tests.engines.wait_on_engine URL SHARED_FOLDER FOLDER_OF_MARKS [DATABASE QUERY]
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

import zhiyin.core.run
from zhiyin.core.run import Run
from zhiyin.engines import open_engine
from zhiyin.engines.spark.reading import read_log

TASKS = 8


class PrintedBar:
    """A bar that prints how far it advances."""

    def __init__(self, label: str, total: int | None) -> None:
        print("total", total, flush=True)

    def advance(self, steps: int, note: str = "") -> None:
        print("advanced", steps, flush=True)

    def close(self) -> None:
        pass


def run_without_end(marks: str, task: int) -> None:
    """Write the number of this process, and write on into its file until it is killed."""
    number = 0
    while True:
        Path(marks, f"{os.getpid()}").write_text(str(number))
        number += 1
        time.sleep(0.05)


def main(url: str, shared: str, marks: str, database: str = "", query: str = "") -> None:
    zhiyin.core.run._Bar = PrintedBar  # type: ignore[assignment,misc]
    options = {} if url.startswith("sc:") else {"spark.executor.memory": "512m"}
    with open_engine(url, shared, options) as engine:
        engine.run_tasks(time.sleep, [0.3] * TASKS, Run(progress=True), "sleeping")
        if database:
            print("read", read_log(engine, database, query=query).data.fingerprint, flush=True)
        engine.run_tasks(partial(run_without_end, marks), [0, 1], Run(progress=False), "waiting")


if __name__ == "__main__":
    main(*sys.argv[1:])
