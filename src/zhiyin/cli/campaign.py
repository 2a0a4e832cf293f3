"""`zhiyin campaign`: campaigns of ads, made, shown, paused and removed, also while the service runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.cli.options import CONFIG, ConfigFile, Json, checked_duration

if TYPE_CHECKING:
    from zhiyin.service.ad_accounts import AdAccounts
    from zhiyin.service.campaigns import Campaigns

app = typer.Typer(help="Campaigns of ads: budgets, bids, spend.", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="Name of the campaign.")]
_MICROS = 1_000_000


@app.command()
def add(
    name: Name,
    items: Annotated[list[str], typer.Argument(metavar="ITEM...", help="Its ads: items of the catalogue.")],
    bid: Annotated[str, typer.Option(help="What a click is worth to it at most, in units of money: 0.35.")],
    daily_budget: Annotated[str | None, typer.Option(help="Most that it spends in a day, UTC.")] = None,
    total_budget: Annotated[str | None, typer.Option(help="Most that it spends in all.")] = None,
    pay: Annotated[str, typer.Option(help="What is paid for: click or purchase.")] = "click",
    bid_column: Annotated[str | None, typer.Option(help="Column of the catalogue with bids of items.")] = None,
    start: Annotated[str | None, typer.Option(help="First day, UTC: 2026-12-01.")] = None,
    end: Annotated[str | None, typer.Option(help="Day, UTC, on which it is over.")] = None,
    pacing: Annotated[str, typer.Option(help="even, traffic or none.")] = "even",
    pacing_by: Annotated[str, typer.Option(help="score, bid or throttle.")] = "score",
    at_most: Annotated[int | None, typer.Option(min=1, help="Displays to one user within --per.")] = None,
    per: Annotated[str, typer.Option(callback=checked_duration, help="Time of --at-most.")] = "1d",
    config: ConfigFile = CONFIG,
) -> None:
    """Begin a campaign, or change one; running services follow within a second.

    \b
    Examples:
      zhiyin campaign add autumn f7 f12 f30 --bid 0.35 --daily-budget 20
      zhiyin campaign add finale f3 --bid 4 --pay purchase --total-budget 900 --end 2027-01-01 --at-most 3
    """
    from zhiyin.cli.output import say

    settings: dict[str, Any] = {
        "items": items, "bid_micros": _micros(bid, "--bid"), "pay": pay, "bid_column": bid_column,
        "daily_budget_micros": _micros(daily_budget, "--daily-budget"),
        "total_budget_micros": _micros(total_budget, "--total-budget"),
        "start": _moment(start, "--start"), "end": _moment(end, "--end"), "pacing": pacing, "pacing_by": pacing_by,
        "frequency_cap": None if at_most is None else {"at_most": at_most, "per": per},
    }  # fmt: skip
    with _campaigns(config) as (campaigns, _):
        version = campaigns.put(name, settings, by="command")
    say(f"{name}: version {version}")


@app.command("list")
def list_(config: ConfigFile = CONFIG, json: Json = False) -> None:
    """All campaigns with what they have spent.

    \b
    Examples:
      zhiyin campaign list
    """
    from zhiyin.cli.output import print_json, print_table
    from zhiyin.service.ad_service import counts_json
    from zhiyin.service.campaigns import settings_json

    with _campaigns(config) as (campaigns, accounts):
        now, sums = campaigns.store.clock(), accounts.refresh()
        rows = [(one, today, total) for one, today, total in zip(sums.campaigns, sums.today, sums.totals)]
        if json:
            print_json([
                {"id": one.name, "version": one.version, "settings": settings_json(one), "state": one.state(now),
                 "today": counts_json(today), "total": counts_json(total)}
                for one, today, total in rows
            ])  # fmt: skip
            return
        print_table(
            ("name", "state", "items", "bid", "pays", "daily budget", "spent today", "total budget", "spent"),
            [(one.name, one.state(now), len(one.settings.items), _units(one.settings.bid_micros), one.settings.pay,
              _units(one.settings.daily_budget_micros), _units(today.spend), _units(one.settings.total_budget_micros),
              _units(total.spend)) for one, today, total in rows],
        )  # fmt: skip


@app.command()
def show(name: Name, config: ConfigFile = CONFIG, json: Json = False) -> None:
    """What a campaign has brought: displays, clicks, spend, and its ads.

    \b
    Examples:
      zhiyin campaign show autumn
    """
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.service.ad_service import counts_json
    from zhiyin.service.campaigns import settings_json

    with _campaigns(config) as (campaigns, accounts):
        sums = accounts.refresh()
        one = campaigns.get(name)
        number, state = sums.names.index(name), one.state(campaigns.store.clock())
        own = [(item, counts) for (_, item), counts in sorted(campaigns.store.ad_items(name).items())]
        ads = [(item, displays, events, round(expected / _MICROS, 2)) for item, (displays, expected, events) in own]
        columns = ("item", "displays", f"{one.settings.pay}s", "expected")
        if json:
            print_json({"id": name, "version": one.version, "settings": settings_json(one), "state": state,
                        "today": counts_json(sums.today[number]), "total": counts_json(sums.totals[number]),
                        "ads": [dict(zip(("item", "displays", "events", "expected"), ad)) for ad in ads]})  # fmt: skip
            return
    say(f"{name}: {state}, version {one.version}, bids {_units(one.settings.bid_micros)} a {one.settings.pay}")
    limits = {"today": one.settings.daily_budget_micros, "in all": one.settings.total_budget_micros}
    print_table(
        ("", "displays", "clicks", "ctr %", "purchases", "unpaid", "spend", "of budget"),
        [(when, part.displays, part.clicks, round(100 * part.clicks / part.displays, 2) if part.displays else None,
          part.purchases, part.unpaid, _units(part.spend), _units(limits[when]))
         for when, part in (("today", sums.today[number]), ("in all", sums.totals[number]))],
    )  # fmt: skip
    print_table(columns, ads)


@app.command()
def pause(
    name: Name,
    resume: Annotated[bool, typer.Option("--resume", help="Have it take part again.")] = False,
    config: ConfigFile = CONFIG,
) -> None:
    """Stop a campaign for a while. Clicks on ads that are displayed already are still charged.

    \b
    Examples:
      zhiyin campaign pause autumn
      zhiyin campaign pause autumn --resume
    """
    from zhiyin.cli.output import say

    with _campaigns(config) as (campaigns, _):
        version = campaigns.change(name, lambda settings: settings.model_copy(update={"paused": not resume}), "command")
    say(f"{name}: {'takes part again' if resume else 'is paused'}, by version {version}")


@app.command()
def remove(name: Name, config: ConfigFile = CONFIG) -> None:
    """Remove a campaign: later clicks on its ads cost nothing. Its versions and what it spent are kept.

    \b
    Examples:
      zhiyin campaign remove autumn
    """
    from zhiyin.cli.output import say

    with _campaigns(config) as (campaigns, accounts):
        accounts.refresh()  # clicks of before are charged
        campaigns.delete(name)
    say(f"{name}: is removed")


def _micros(amount: str | None, option: str) -> int | None:
    """Whole micros of an amount in units of money. Raises ConfigError for what is none."""
    from zhiyin.core.errors import ConfigError

    if amount is None:
        return None
    try:
        micros = Decimal(amount) * _MICROS
        if micros == micros.to_integral_value() and micros > 0:
            return int(micros)
    except (InvalidOperation, OverflowError, ValueError):
        pass
    remedy = "a number above 0 with at most six decimals: 0.35"
    raise ConfigError(f"{option}: {amount[:40]!r} is no amount", remedy=remedy)


def _moment(day: str | None, option: str) -> int | None:
    """Microseconds of the begin of a day. Raises ConfigError for what is no day."""
    from datetime import UTC, datetime

    from zhiyin.core.errors import ConfigError

    if day is None:
        return None
    try:
        return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1_000_000
    except (ValueError, OverflowError):
        raise ConfigError(f"{option}: {day[:40]!r} is no day", remedy="write 2026-12-01") from None


def _units(micros: int | None) -> str:
    return "" if micros is None else f"{Decimal(micros) / _MICROS:,f}"


@contextmanager
def _campaigns(config: Path) -> Iterator[tuple[Campaigns, AdAccounts]]:
    from zhiyin.cli.project import open_project, opened_store, project_of
    from zhiyin.data.project_config import Config
    from zhiyin.service.ad_accounts import AdAccounts
    from zhiyin.service.campaigns import Campaigns

    without_settings = config == CONFIG and not config.is_file()  # `zhiyin serve` needs no settings file either
    project = project_of(Config(), config.parent) if without_settings else open_project(config)
    with opened_store(project) as store:
        campaigns = Campaigns(store)
        yield campaigns, AdAccounts(store, campaigns, project.config.ads)
