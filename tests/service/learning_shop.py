"""A shop that learns from files and from its store, and serves over HTTP: for tests of what the two agree on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.data.project_config import ServiceSection
from zhiyin.data.reading import read
from zhiyin.models.popularity import Popular
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service.key_cache import Keys
from zhiyin.service.serving_state import ServingState
from zhiyin.service.tenant import Tenant
from zhiyin.service.version_view import View
from zhiyin.store.live_state import LiveState
from zhiyin.store.store import Store
from zhiyin.store.training_export import read_snapshot

from .conftest import client_of

DAY, HOUR = 86_400_000_000, 3_600_000_000
NOW = 1_700_000_000_000_000
ITEMS = [f"i{n}" for n in range(6)]
NAMES = {"user": "user", "item": "item", "time": "time", "kind": "kind", "rating": "stars"}
COLUMNS = {"user": pl.String, "item": pl.String, "time": pl.Int64, "kind": pl.String, "stars": pl.Float64}
# What every log has, so that weights may name it.
ALWAYS = [("u0", "i0", NOW - 9 * DAY, "view", None), ("u0", "i1", NOW - 8 * DAY, "purchase", 2.0)]


def frame(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=COLUMNS, orient="row").with_columns(pl.from_epoch("time", "us"))


class Shop:
    """Files and a store; versions that learn from both. Its clock stands still unless it is moved."""

    def __init__(self, folder: Path, files: Any, weights: dict[str, float] | None = None) -> None:
        self.folder, self.files, self.weights, self.now = folder, files, weights, NOW
        self.items = pl.DataFrame({"id": ITEMS})
        self.users: pl.DataFrame | None = None
        self.shown: dict[str, str] = {}
        self.store, self.bundles = Store(folder / "store.db", clock=lambda: self.now), Bundles(folder / "bundles")

    def read(self) -> Dataset:
        return read(
            self.files, items=self.items, users=self.users, columns=NAMES if self.files is not None else None,
            weights=self.weights, snapshot=read_snapshot(self.store), now=self.now,
        )  # fmt: skip

    def train(self) -> Dataset:
        """The next version, put in use; what it learned from."""
        begun = datetime.fromtimestamp(self.now / 1e6, UTC)
        data = self.read()
        model = Popular().fit(data)
        bundle = self.bundles.write(model, figures={}, catalogue=Catalogue.of(data), made_at=begun)
        self.bundles.promote(bundle.version)
        return data

    @contextmanager
    def serving(self, state: LiveState | None = None, options: dict[str, Any] | None = None) -> Iterator[Any]:
        """A client of the shop while it serves."""
        store = Store(str(self.store.path), clock=lambda: self.now)
        live = ServingState(self.bundles, store, options, self.weights, state=state)
        keys, shown = Keys.open(store)
        self.shown = self.shown or shown
        tenant = Tenant("shop", live, keys, ServiceSection(budget=60_000))
        tenant.shown = self.shown  # type: ignore[attr-defined]
        try:
            yield client_of(tenant)
        finally:
            tenant.close()


@contextmanager
def a_shop(files: Any, weights: dict[str, float] | None = None) -> Iterator[Shop]:
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(Path(folder), files, weights)
        try:
            yield shop
        finally:
            shop.store.close()


def learned(data: Dataset, user: str) -> list[tuple[Any, ...]]:
    """The history of a user as training has it: item, weight, time, kind, value; numbers as their bits."""
    return rows(data.history_of([user]), data.item_ids, data.schema)


def rows(histories: Any, ids: Any, schema: Any) -> list[tuple[Any, ...]]:
    names = [*schema.kinds, "other"]
    return list(zip(
        ids.raw(histories.items), histories.weights.view(np.uint32).tolist(), histories.times.tolist(),
        [names[code] for code in histories.kinds.tolist()], histories.values.view(np.uint32).tolist(),
    ))  # fmt: skip


def served(client: Any, user: str, view: View | None = None) -> list[tuple[Any, ...]]:
    """The history that a list for the user is made of."""
    view = view or client.live.view()
    return rows(client.live.user_history(view, user).history, view.ids, view.loaded.schema)


def as_known(history: list[tuple[Any, ...]], kinds: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """A history as a version has it that knows only these kinds."""
    return [(*row[:3], row[3] if row[3] in kinds else "other", row[4]) for row in history]
