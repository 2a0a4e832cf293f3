"""`read_shards`: shards as a data set, of one process or of those that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from zhiyin.core.errors import MissingExtraError
from zhiyin.core.run import Run
from zhiyin.data import sharded_dataset
from zhiyin.data.dataset import Dataset
from zhiyin.data.process_group import ALONE, ProcessGroup


def read_shards(
    folder: str | Path, *, weights: Mapping[str, float] | None = None, now: int | None = None, run: Run | None = None
) -> Dataset:
    """Read the shards that `zhiyin store export --shards`, `zhiyin data shards` or `write_shards` wrote.

    One process gets the whole log. Under torchrun each process reads its share of the shards and no file of another's;
    models that are networks over histories then train together: `model.fit(data)` in all of them, and
    `model.save(folder)`, which the first one does.

    Parameters
    ----------
    weights: of events, as `zhiyin.read` takes them. None: those that were decided when the shards were written, else
        the usual ones.
    now: what the clock says, microseconds UTC; left out, the first process's.

    Raises DataError for files that are missing or damaged, and ConfigError for fewer shards than processes.
    """
    return sharded_dataset.read_shards(folder, weights=weights, group=started_group(), now=now, run=run)


def started_group() -> ProcessGroup:
    """The processes that torchrun started, joined; or this one alone. Raises MissingExtraError without torch."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    try:
        from zhiyin.models.neural.distributed import process_group
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "deep", "training in several processes") from None
    return process_group()
