"""A film shop behind a service of its own, set up as a user does it: columns, films, users and log are sent over HTTP,
a version is trained from what the store then holds, and promoted.
"""

from __future__ import annotations

import shutil
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING

from zhiyin.core.run import Run
from zhiyin.policies.simulators.film_shop import FilmShop
from zhiyin.policies.simulators.opened_film_shop import OpenedFilmShop, send_shop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from zhiyin.client import AsyncClient
    from zhiyin.service.tenant import Tenant

SOURCES = "itemknn; content; als:factors=16"
# A request of a simulated visitor may wait: many are sent at once.
TIMEOUT_SECONDS = 60.0


def small_shop(seed: int, n_users: int = 300, n_items: int = 300, before: int = 60, after: int = 30) -> FilmShop:
    """A shop of which a simulation takes seconds: `before` days of log, `after` days that are lived."""
    return FilmShop(n_users=n_users, n_items=n_items, days=before + after, seed=seed, sessions=0.15 * (before + after))


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
        from zhiyin.service.tenant import Tenant

        folder.mkdir(parents=True, exist_ok=True)
        text = f"[service]\nbudget = 60000\n\n{settings}"
        (folder / "zhiyin.toml").write_text(text, encoding="utf-8")
        tenant, keys = Tenant.open(folder / "zhiyin.toml")
        service = cls(folder, keys["admin"])
        with closing(tenant):
            async with service.client(tenant) as client:
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

    def open(self) -> Tenant:
        """The shop, to be served; close it at the end."""
        from zhiyin.service.tenant import Tenant

        return Tenant.open(self.folder / "zhiyin.toml")[0]

    def client(self, tenant: Tenant) -> AbstractAsyncContextManager[AsyncClient]:
        """A client whose requests go through the HTTP application of this process, without a socket."""
        return _application_client(tenant, self.key)


@asynccontextmanager
async def _application_client(tenant: Tenant, key: str) -> AsyncIterator[AsyncClient]:
    from zhiyin.client import AsyncClient
    from zhiyin.client.transport import import_httpx
    from zhiyin.service.app import create_app

    transport = import_httpx().ASGITransport(app=create_app([tenant]))
    async with AsyncClient("http://film-shop", key, TIMEOUT_SECONDS, transport=transport) as client:
        yield client
