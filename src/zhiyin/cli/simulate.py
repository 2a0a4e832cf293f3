"""`zhiyin simulate`: policies on simulated users, or simulated users who click through the HTTP interface."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.cli.options import Json
from zhiyin.core.errors import ConfigError

if TYPE_CHECKING:
    from zhiyin.cli.line_chart import Line
    from zhiyin.policies.simulators.shop_visitors import VisitLog

ENVIRONMENTS = ("film-shop", "interest-evolution", "long-term-satisfaction")
DEFAULT_POLICIES = ("random", "epsilongreedy:floor=0.1", "squarecb:scale=20", "linucb:alpha=0.5", "lints:scale=0.3")
# Days of the film shop's log, and those that its visitors live through a service.
DAYS_BEFORE, DAYS_AFTER = 60, 30
CURVE_POINTS = 40


def simulate(
    environment: Annotated[
        str, typer.Argument(metavar="[ENVIRONMENT]", help="film-shop, interest-evolution or long-term-satisfaction.")
    ] = "film-shop",
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", "-p", help="A policy, such as lints:scale=0.5, random or myopic; may be repeated."),
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Simulated users.")] = 200,
    steps: Annotated[int, typer.Option(min=1, help="Slates that each user sees.")] = 60,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions, from --seed on; intervals are over them.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Every random draw descends from it.")] = 0,
    url: Annotated[
        str | None, typer.Option(help="A running service: users of the film shop visit it, and nothing is simulated.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="ZHIYIN_KEY", help="Its key: read and events; admin with --load.")
    ] = None,
    placement: Annotated[str | None, typer.Option(help="Whose lists are asked for.")] = None,
    visits: Annotated[int, typer.Option(min=1, help="Lists that are asked for, with --url.")] = 2000,
    concurrent: Annotated[int, typer.Option(min=1, max=1000, help="Users who visit at once, with --url.")] = 20,
    impressions: Annotated[bool, typer.Option(help="Send what was shown, with --url.")] = True,
    load: Annotated[bool, typer.Option("--load", help="Send films, users and log first, with --url.")] = False,
    items: Annotated[int, typer.Option(min=1, help="Films of the film shop.")] = 300,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a picture of the reward over time, an .svg.")
    ] = None,
    json: Json = False,
) -> None:
    """Try policies on simulated users whose behaviour is known, or let them click through a running service.

    Without --url the policies choose slates for the users and learn from each step; the table has the reward of a step
    with its 95 % interval. `random` shows slates at random; `myopic` knows what each item brings at once.

    With --url users of the film shop ask the service for lists, look at them from the top, click and buy, while their
    tastes drift and new films come. A placement with a policy learns from that. The table has the reward of a list,
    the regret against the best list, and how long new films waited for their tenth impression. The service has to know
    the shop: --load sends it; then train a version from the store, zhiyin train --budget 5m.

    \b
    Examples:
      zhiyin simulate
      zhiyin simulate interest-evolution --policy lints:scale=0.3 --policy random --seeds 10 --output reward.svg
      zhiyin simulate --url http://127.0.0.1:8000 --key zy_admin_... --load --visits 1
      zhiyin simulate --url http://127.0.0.1:8000 --key zy_admin_... --placement home --visits 5000 --json
    """
    if environment not in ENVIRONMENTS:
        raise ConfigError(f"there is no environment {environment!r}", remedy=f"one of {', '.join(ENVIRONMENTS)}")
    if output is not None and output.suffix.lower() != ".svg":
        raise ConfigError(
            f"a picture {output.name!r} cannot be written", remedy="--output with a name that ends in .svg"
        )
    if url is None:
        _simulate_policies(
            environment, policy or list(DEFAULT_POLICIES), users, steps, seeds, seed, items, output, json
        )
        return
    if environment != "film-shop" or policy:
        raise ConfigError(
            "through a service the film shop's users visit, and its placement has the policy",
            remedy="leave out the environment and --policy, name --placement",
        )
    if key is None:
        raise ConfigError("no key for the service", remedy="--key KEY, or ZHIYIN_KEY in the environment")
    from zhiyin.policies.simulators.shop_visitors import VisitSettings

    settings = VisitSettings(visits=visits, concurrent=concurrent, impressions=impressions, seed=seed)
    _visit_service(url, key, placement, settings, users, items, load, output, json)


# -- without a service ----------------------------------------------------------------------------------------------


def _simulate_policies(
    environment: str,
    policies: list[str],
    users: int,
    steps: int,
    seeds: int,
    seed: int,
    items: int,
    output: Path | None,
    json: bool,
) -> None:
    import numpy as np

    from zhiyin.cli.line_chart import line_chart_svg, write_line_chart
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.core.run import Run
    from zhiyin.evaluation.significance import mean_interval
    from zhiyin.policies.registry import parse
    from zhiyin.policies.simulators.policy_sessions import ENVIRONMENTS as KINDS
    from zhiyin.policies.simulators.policy_sessions import MYOPIC, RANDOM, run_policy

    for text in policies:  # mistakes are said before anything runs
        if text not in (RANDOM, MYOPIC):
            parse(text)
    sizes = {"n_items": items} if environment == "film-shop" else {}
    rows: list[dict[str, Any]] = []
    lines = []
    with Run().bar("Simulating", len(policies) * seeds * steps) as advance:
        for text in policies:
            begun = time.perf_counter()
            curves = [
                run_policy(
                    KINDS[environment](n_users=users, seed=seed + number, **sizes), text, steps, seed + number,
                    on_step=lambda: advance(1),
                ).rewards
                for number in range(seeds)
            ]  # fmt: skip
            rewards = np.array(curves)
            late = rewards[:, -max(1, steps // 4) :]
            rows.append(
                {"policy": text, "reward": mean_interval(rewards.mean(axis=1)),
                 "last quarter": mean_interval(late.mean(axis=1)), "seconds": time.perf_counter() - begun}
            )  # fmt: skip
            lines.append(_line_of_seeds(text, np.arange(1, steps + 1), rewards))
    if output is not None:
        title = f"{environment}: reward of a step"
        write_line_chart(output, line_chart_svg(lines, title, "step", "mean reward of a user"))
        say(f"picture: {output}")
    if json:
        print_json({
            "environment": environment, "users": users, "steps": steps, "seeds": seeds,
            "policies": [{"policy": row["policy"], "reward": _interval(row["reward"]),
                          "last_quarter": _interval(row["last quarter"]), "seconds": row["seconds"]} for row in rows],
        })  # fmt: skip
        return
    print_table(
        ["policy", "reward", "low", "high", "last quarter", "low ", "high ", "seconds"],
        [[row["policy"], *row["reward"], *row["last quarter"], row["seconds"]] for row in rows],
        f"{environment}: reward of a step, {users} users, {steps} steps, {seeds} seeds",
    )


def _line_of_seeds(name: str, x: Any, curves: Any) -> Line:
    """Mean of the seeds, smoothed over time, with its interval. curves: float64[seeds, n]."""
    import numpy as np

    from zhiyin.cli.line_chart import Line
    from zhiyin.evaluation.significance import mean_interval

    groups = np.array_split(np.arange(curves.shape[1]), min(CURVE_POINTS, curves.shape[1]))
    points = np.array([mean_interval(curves[:, group].mean(axis=1)) for group in groups])
    middle = np.array([x[group].mean() for group in groups])
    several = len(curves) > 1
    return Line(name, middle, points[:, 0], points[:, 1] if several else None, points[:, 2] if several else None)


# -- through a service -----------------------------------------------------------------------------------------------


def _visit_service(
    url: str,
    key: str,
    placement: str | None,
    settings: Any,
    users: int,
    items: int,
    load: bool,
    output: Path | None,
    json: bool,
) -> None:
    from zhiyin.cli.film_shop_service import TIMEOUT_SECONDS
    from zhiyin.cli.line_chart import line_chart_svg, write_line_chart
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.client import AsyncClient
    from zhiyin.policies.simulators.film_shop import DAY, FilmShop
    from zhiyin.policies.simulators.opened_film_shop import OpenedFilmShop, send_shop
    from zhiyin.policies.simulators.shop_visitors import ShopVisitors

    shop = FilmShop(n_users=users, n_items=items, days=DAYS_BEFORE + DAYS_AFTER, seed=settings.seed)
    moment = int(time.time() * 1e6) // DAY * DAY  # of the day: loading again on it sends the same log
    opened = OpenedFilmShop(shop, DAYS_BEFORE, moment)

    async def visit() -> VisitLog:
        async with AsyncClient(url, key, TIMEOUT_SECONDS) as client:
            if load:
                say(f"sent: {await send_shop(client, opened):,} events, {len(opened.catalogue()):,} films")
            return await ShopVisitors(opened, settings, placement).run(client)

    log = asyncio.run(visit())
    figures = visit_figures(log)
    if output is not None:
        title = f"Film shop at {placement or 'the default placement'}: reward of a list"
        write_line_chart(output, line_chart_svg(_visit_lines(log), title, "lists", "expected reward of a list"))
        say(f"picture: {output}")
    if json:
        print_json({"url": url, "placement": placement, "lists": len(log), **figures})
        return
    rows = [[name, *(value if isinstance(value, list) else [value, None, None])] for name, value in figures.items()]
    print_table(["", "mean", "low", "high"], rows, f"{len(log):,} lists of {url}")


def visit_figures(log: VisitLog) -> dict[str, Any]:
    """What visits brought: [mean, low, high] of a list, over twenty successive groups of visits; other figures."""
    import numpy as np

    from zhiyin.evaluation.significance import mean_interval

    groups = np.array_split(np.arange(len(log)), min(20, len(log)))

    def of(values: Any) -> list[float]:
        return list(mean_interval(np.array([values[group].mean() for group in groups])))

    waited = log.visits_to_discovery()
    figures: dict[str, Any] = {
        "reward": of(log.rewards),
        "expected reward": of(log.values),
        "regret": of(log.regret),
        "clicks": of(log.clicks),
        "purchases": of(log.purchases),
        "explored": float(log.explored.mean()),
        "new films": len(log.arrived),
        "new films with 10 impressions": int(np.isfinite(log.discovered_at).sum()),
        "lists until then, censored": float(waited.mean()) if len(waited) else None,
        "milliseconds": 1e3 * float(np.median(log.seconds)),
    }
    return figures


def _visit_lines(log: VisitLog) -> list[Line]:
    import numpy as np

    x = np.arange(1, len(log) + 1)
    return [
        _line_of_seeds("best list", x, log.best_values[None, :]),
        _line_of_seeds("shown", x, log.values[None, :]),
    ]


def _interval(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), values))
