"""A small film shop behind a service: with its catalogue, users and log sent over HTTP, and a version in use."""

from __future__ import annotations

import asyncio
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from zhiyin.cli.film_shop_service import FilmShopService
from zhiyin.policies.simulators.film_shop import DAY, FilmShop
from zhiyin.policies.simulators.opened_film_shop import OpenedFilmShop

OPENING, AFTER = 40, 20


@pytest.fixture(scope="session")
def opened() -> OpenedFilmShop:
    """60 users and 80 films. Many films come after the opening; what is new attracts much, as the log cannot know."""
    moment = int(time.time() * 1e6) // DAY * DAY - (AFTER + 1) * DAY
    shop = FilmShop(n_users=60, n_items=80, days=OPENING + AFTER, seed=1, arrivals=0.4, novelty=5.0)
    return OpenedFilmShop(shop, OPENING, moment)


@pytest.fixture(scope="session")
def film_shop(opened: OpenedFilmShop, tmp_path_factory: pytest.TempPathFactory) -> FilmShopService:
    """The shop with a version whose lists are popular films: what visitors like differs."""
    folder = tmp_path_factory.mktemp("loop") / "shop"
    return asyncio.run(FilmShopService.create(folder, opened, sources="popular; als:factors=8"))
