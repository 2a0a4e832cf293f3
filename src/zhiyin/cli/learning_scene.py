"""The last scene of `zhiyin demo`: a film shop with a static list, one with a list that learns, a picture of both."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zhiyin.policies.simulators.shop_visitors import VisitLog

# Days of log that the shop has at its opening; days that its visitors live. Visits, and how many are at once.
BEFORE, AFTER = 60, 30
VISITS, CONCURRENT = 2_400, 20
# The share of the lists that may differ from what the policy believes best.
SHARE = 0.2
PICTURE = "regret.svg"


def learning_placement(kind: str = "lin_ts", share: float = SHARE, mode: str = "online") -> dict[str, Any]:
    """Settings of a placement that learns from clicks and purchases."""
    return {
        "k": 10,
        "policy": {
            "kind": kind,
            "settings": {},
            "mode": mode,
            "shortlist": 100,
            "rewards": {"view": 1, "purchase": 5},
            "window": "1d",
            "exploration": {"share": share},
        },
    }


def play_learning_scene(output: Path, seed: int = 0) -> None:
    """Visits to both lists, a table of what they brought, and the picture in `output`.

    Raises MissingExtraError without the extras serve and client.
    """
    from zhiyin.cli.output import print_table, say

    begun = time.perf_counter()
    logs = asyncio.run(_visits(output / "learning", seed))
    picture = output / PICTURE
    write_regret_picture(picture, logs)
    rows = [
        [name, float(log.values.mean()), float(log.values[-len(log) // 3 :].mean()), float(log.regret.mean()),
         float(log.explored.mean()), float(log.visits_to_discovery().mean())]
        for name, log in logs.items()
    ]  # fmt: skip
    headers = ["list", "reward", "reward, last third", "regret", "explored", "visits to a new film's 10th showing"]
    print_table(headers, rows, f"{VISITS:,} lists each, in {time.perf_counter() - begun:.0f} s")
    say(f"what both lost against the best list, summed up: {picture}")


async def _visits(folder: Path, seed: int) -> dict[str, VisitLog]:
    import shutil

    from zhiyin.cli.film_shop_service import FilmShopService, small_shop
    from zhiyin.policies.simulators.film_shop import DAY
    from zhiyin.policies.simulators.opened_film_shop import OpenedFilmShop
    from zhiyin.policies.simulators.shop_visitors import VisitSettings

    moment = int(time.time() * 1e6) // DAY * DAY - (AFTER + 1) * DAY
    opened = OpenedFilmShop(small_shop(seed, before=BEFORE, after=AFTER), BEFORE, moment)
    settings = VisitSettings(visits=VISITS, concurrent=CONCURRENT, purchase_delay=3 * 3600.0, seed=seed)
    if folder.exists():
        shutil.rmtree(folder)
    service = await FilmShopService.create(folder / "static", opened)
    learning = service.copy(folder / "learning")
    logs = {}
    for name, arm, placement in (("static", service, {"k": 10}), ("learning", learning, learning_placement())):
        async with arm.serving(opened) as shop:
            await shop.client.put_placement("home", placement)
            logs[name] = await shop.visit(settings, "home")
    return logs


def write_regret_picture(path: Path, logs: dict[str, VisitLog]) -> None:
    """Regret of the logs, summed up over their visits."""
    import numpy as np

    from zhiyin.cli.line_chart import Line, line_chart_svg, write_line_chart

    lines = []
    for name, log in logs.items():
        points = np.unique(np.linspace(0, len(log) - 1, 80).round().astype(int))
        lines.append(Line(f"{name}: {log.values.mean():.2f} a list", 1.0 + points, np.cumsum(log.regret)[points]))
    title = "A film shop with a static list, and with one that learns"
    write_line_chart(path, line_chart_svg(lines, title, "lists", "regret, in clicks (a purchase is 5)"))
