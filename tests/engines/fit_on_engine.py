"""Fit ALS on an engine and save it; prints a line after each epoch.

python -m tests.engines.fit_on_engine URL SHARED_FOLDER OUTPUT
"""

from __future__ import annotations

import sys

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.engines import open_engine
from zhiyin.engines.spark.event_log import EventLog
from zhiyin.engines.spark.fitting import fit
from zhiyin.models.als import ALS
from zhiyin.models.neighbors import ItemKNN
from zhiyin.testing.recommender import shop


def data() -> Dataset:
    return shop(seed=3)


def models() -> list[ALS | ItemKNN]:
    return [ALS(factors=8, epochs=4), ItemKNN(k_neighbors=5)]


def main(url: str, shared: str, output: str) -> None:
    def show(values: dict[str, object]) -> None:
        print("epoch", values["epoch"], flush=True)

    run = Run(progress=False, callbacks=(show,))
    options = {} if url.startswith("sc:") else {"spark.executor.memory": "512m"}
    with open_engine(url, shared, options) as engine:
        events = EventLog.publish(engine, data())
        for number, model in enumerate(models()):
            fit(engine, model, events, run).save(f"{output}/{number}")


if __name__ == "__main__":
    main(*sys.argv[1:])
