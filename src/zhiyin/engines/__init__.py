"""The same work on clusters: an engine moves blocks of data, the kernels stay where they are and run in its tasks.

    with open_engine("spark://host:7077", folder="/shared/work") as engine:
        data = engine.read("events/", run=run)
        engine.fit(ALS(), data, run).save("models/als")

What an engine computes is what one process computes, bit for bit where the order of sums allows it.
"""

from __future__ import annotations

from zhiyin.engines.opening import open_engine

__all__ = ["open_engine"]
