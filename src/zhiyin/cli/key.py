"""`zhiyin key`: add, list and revoke keys of the service, also while it runs."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.cli.options import CONFIG, ConfigFile, Json, checked_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zhiyin.service.key_cache import Keys

app = typer.Typer(
    help="Keys of the service. Running services follow within a second.", no_args_is_help=True, rich_markup_mode=None
)
Name = Annotated[str, typer.Argument(help="Name of the key: letters, digits, dots, hyphens, underscores.")]


@app.command()
def add(
    name: Name,
    scope: Annotated[
        list[str], typer.Option(help="What it may do: read, events, page or admin; may be repeated, page alone.")
    ],
    expires: Annotated[
        str | None, typer.Option(callback=checked_duration, help="A duration from now, such as 90d; default never.")
    ] = None,
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """Make a key and print it, this once: only its hash is kept.

    To rotate a key add another, give it to the program, then revoke the old one.

    \b
    Scopes:
      read    lists, histories, items, users
      events  bring events and what was shown
      page    sign tokens for web pages, each for one user or session
      admin   all of it: items, users, placements, traces, keys

    \b
    Examples:
      zhiyin key add shop-2026 --scope read --scope events --expires 90d
      zhiyin key add web --scope page
      zhiyin key add ops --scope admin --json
    """
    from zhiyin.cli.output import print_json, say
    from zhiyin.service.key_routes import key_json

    with _keys(config) as keys:
        key, secret = keys.add(name, scope, expires)
        now = keys.now()
    if json:
        print_json({"key": secret} | key_json(key, now))
        return
    typer.echo(secret)
    until = "until it is revoked" if key.expires is None else f"until {_day(key.expires)}"
    say(f"{name} may {', '.join(sorted(key.scopes))} {until}; id {key.id}. it is shown this once")


@app.command("list")
def list_(config: ConfigFile = CONFIG, json: Json = False) -> None:
    """All keys: name, scopes, when they were made, expire and were last used. The keys themselves are not kept.

    \b
    Examples:
      zhiyin key list
      zhiyin key list --json
    """
    from zhiyin.cli.output import print_json, print_table
    from zhiyin.service.key_routes import key_json

    with _keys(config) as keys:
        keys_json = [key_json(key, keys.now()) for key in keys.all()]
    if json:
        print_json(keys_json)
        return
    print_table(
        ("name", "scopes", "id", "created", "expires", "last used"),
        [
            (key["name"], ", ".join(key["scopes"]), key["id"], _day(key["created"]),
             "never" if key["expires"] is None else _day(key["expires"]) + (" (expired)" if key["expired"] else ""),
             "never" if key["used"] is None else _day(key["used"]))
            for key in keys_json
        ],
    )  # fmt: skip


@app.command()
def revoke(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Even the last admin key.")] = False,
    config: ConfigFile = CONFIG,
) -> None:
    """Refuse a key from now on, and with a page key every token that it signed; services follow within a second.

    \b
    Examples:
      zhiyin key revoke shop-2025
    """
    from zhiyin.cli.output import say

    with _keys(config) as keys:
        key = keys.revoke(name, last_admin=force)
    if not key.scopes:
        say(f"{name} was damaged and opened nothing; its row is gone")
        return
    signed = ", and no page token that it signed" if "page" in key.scopes else ""
    say(f"{name} (id {key.id}) opens nothing any more{signed}")


@contextmanager
def _keys(config: Path) -> Iterator[Keys]:
    """The keys of the project's store, which is created where there is none."""
    from zhiyin.cli.output import say
    from zhiyin.cli.project import open_project, opened_store, project_of
    from zhiyin.data.project_config import Config
    from zhiyin.service.key_cache import Keys

    without_settings = config == CONFIG and not config.is_file()  # `zhiyin serve` needs no settings file either
    project = project_of(Config(), config.parent) if without_settings else open_project(config)
    with opened_store(project, create=True) as store:
        keys, _ = Keys.open(store, project.home / "keys.json", first=False)
        for entry in keys.health_issues():
            say(f"{entry.what}: {entry.reason}; {entry.remedy}")
        for name in keys.damaged:
            say(f"damaged: {name!r}")
        yield keys


def _day(time: Any) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time / 1e6, UTC).strftime("%Y-%m-%d")
