"""A film shop behind a service of its own, set up as a user does it: columns, films, users and log are sent over HTTP,
a version is trained from what the store then holds, and promoted.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run, log
from zhiyin.policies.simulators.film_shop import FilmShop
from zhiyin.policies.simulators.opened_film_shop import OpenedFilmShop, SimulatedClock, send_shop
from zhiyin.policies.simulators.shop_visitors import ShopVisitors, VisitLog, VisitSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from zhiyin.client import AsyncClient
    from zhiyin.service.policy_learning_job import PolicyLearningJob
    from zhiyin.service.tenant import Tenant

SOURCES = "itemknn; content; als:factors=16"
# A request of a simulated visitor may wait: many are sent at once.
TIMEOUT_SECONDS = 60.0


def small_shop(seed: int, n_users: int = 300, n_items: int = 300, before: int = 60, after: int = 30) -> FilmShop:
    """A shop of which a simulation takes seconds: `before` days of log, `after` days that are lived."""
    return FilmShop(n_users=n_users, n_items=n_items, days=before + after, seed=seed, sessions=0.15 * (before + after))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The log of this process tells errors alone."""
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


class FilmShopService:
    """A folder with settings, a store with the shop's data, and a version in use; served within this process.

    Parameters
    ----------
    key: an admin key of the service.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    @classmethod
    async def create(
        cls, folder: Path, opened: OpenedFilmShop, sources: str = SOURCES, settings: str = "", run: Run | None = None
    ) -> FilmShopService:
        """Make the folder: send the shop to a service without a version, train one and promote it.

        Parameters
        ----------
        sources: of the pipeline.
        settings: more text of zhiyin.toml, such as placements.
        """
        from zhiyin.service.app import create_app
        from zhiyin.service.tenant import Tenant

        folder.mkdir(parents=True, exist_ok=True)
        text = f"[service]\nbudget = 60000\n\n{settings}"
        (folder / "zhiyin.toml").write_text(text, encoding="utf-8")
        with _without_warnings():  # a version is still to come
            tenant, keys = Tenant.open(folder / "zhiyin.toml")
        service = cls(folder, keys["admin"])
        tenant.store.clock = SimulatedClock(opened)
        with closing(tenant):
            async with _client(create_app([tenant]), service.key, socket=False) as client:
                await send_shop(client, opened)
        service.train(sources, run or Run())
        return service

    def train(self, sources: str, run: Run) -> None:
        """Fit a pipeline on all that the store holds, and put it in use."""
        from zhiyin.data.catalogue import Catalogue
        from zhiyin.data.project_config import load_config, read_data
        from zhiyin.pipeline.model_versions import Bundles
        from zhiyin.pipeline.pipeline import Pipeline
        from zhiyin.store.store import Store
        from zhiyin.store.training_export import read_snapshot

        with closing(Store(self.folder / "store.db")) as store:
            data = read_data(load_config(self.folder / "zhiyin.toml"), self.folder, None, read_snapshot(store, run))
        bundles = Bundles(self.folder / "models" / "bundles")
        with bundles.training():
            pipeline = Pipeline(sources=sources, ranker="none", windows=1).fit(data, run)
            bundle = bundles.write(pipeline, figures={}, catalogue=Catalogue.of(data))
            bundles.promote(bundle.version, "of the simulated film shop")

    def copy(self, folder: Path) -> FilmShopService:
        """The same shop in another folder; not while it is served."""
        shutil.copytree(self.folder, folder)
        return FilmShopService(folder, self.key)

    @asynccontextmanager
    async def serving(self, opened: OpenedFilmShop, *, socket: bool = False) -> AsyncIterator[ServedFilmShop]:
        """The shop while it is served, and lives simulated days.

        Parameters
        ----------
        socket: answer on a socket of this machine; else requests go to the HTTP application directly.
        """
        from zhiyin.service.app import create_app
        from zhiyin.service.policy_learning_job import PolicyLearningJob
        from zhiyin.service.tenant import Tenant

        tenant = Tenant.open(self.folder / "zhiyin.toml")[0]
        clock = SimulatedClock(opened)
        tenant.store.clock = clock
        with closing(tenant), closing(PolicyLearningJob(tenant.store, run=False)) as learner:
            async with _client(create_app([tenant]), self.key, socket) as client:
                yield ServedFilmShop(opened, tenant, client, clock, learner)


@dataclasses.dataclass(eq=False)
class ServedFilmShop:
    """A shop that is served. client: with an admin key. clock: of its store. learner: works by `learn` only."""

    opened: OpenedFilmShop
    tenant: Tenant
    client: AsyncClient
    clock: SimulatedClock
    learner: PolicyLearningJob

    def visitors(self, settings: VisitSettings, placement: str | None) -> ShopVisitors:
        """Visitors; after each of their rounds the learner does its work, as it would beside a service."""
        return ShopVisitors(self.opened, settings, placement, self.clock, on_round=lambda done: self.learn())

    async def visit(self, settings: VisitSettings, placement: str | None, run: Run | None = None) -> VisitLog:
        """Have visitors come for all days of the shop."""
        return await self.visitors(settings, placement).run(self.client, run)

    def learn(self) -> None:
        """Close the windows that have ended, learn, and serve by what was learned."""
        self.learner.step()
        self.tenant.policies.refresh()


@asynccontextmanager
async def _client(app: Any, key: str, socket: bool) -> AsyncIterator[AsyncClient]:
    """A client of an application, by a socket or without one."""
    from zhiyin.client import AsyncClient
    from zhiyin.client.transport import import_httpx

    if not socket:
        transport = import_httpx().ASGITransport(app=app)
        async with AsyncClient("http://film-shop", key, TIMEOUT_SECONDS, transport=transport) as client:
            yield client
        return
    with _answering(app) as url:
        async with AsyncClient(url, key, TIMEOUT_SECONDS) as client:
            yield client


@contextmanager
def _answering(app: Any) -> Iterator[str]:
    """The address of an application that a thread answers for until the end of the block."""
    import socket
    import threading
    import time

    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=3))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise ConfigError("the service ended before it answered", remedy="see its messages above")
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
