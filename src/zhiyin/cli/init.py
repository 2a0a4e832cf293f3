"""`zhiyin init`: infer the roles of the columns, print them, and write them to zhiyin.toml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from zhiyin.cli.options import CONFIG, Assume, ConfigFile, checked_duration
from zhiyin.core.errors import ConfigError

if TYPE_CHECKING:
    from zhiyin.data.dataset import Dataset
    from zhiyin.data.project_config import Config


def init(
    source: Annotated[
        str | None, typer.Argument(help="A file, a folder or a database; default the current folder.")
    ] = None,
    items: Annotated[str | None, typer.Option(help="The file that describes the items.")] = None,
    users: Annotated[str | None, typer.Option(help="The file that describes the users.")] = None,
    links: Annotated[str | None, typer.Option(help="The file that says who knows whom.")] = None,
    images: Annotated[str | None, typer.Option(help="The folder of the items' pictures.")] = None,
    query: Annotated[str | None, typer.Option(help="The SQL query that gives a database's events.")] = None,
    query_timeout: Annotated[
        str | None, typer.Option(callback=checked_duration, help='How long the query may take, such as "30m".')
    ] = None,
    assume: Assume = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite settings that are there.")] = False,
    config: ConfigFile = CONFIG,
) -> None:
    """Look at the data, say what its columns mean, and write the settings file.

    The file explains every key. What was guessed wrongly is put right there.

    \b
    Examples:
      zhiyin init ratings.csv --items movies.csv
      zhiyin init data/
      zhiyin init bestellungen.csv --assume day_first=true --assume encoding=cp1252
      zhiyin init 'sqlite:///shop.db' --query 'SELECT user_id, item_id, at FROM orders'
    """
    from zhiyin.cli.output import say
    from zhiyin.cli.project import config_of_sources, make_relative, project_of, record_assumed
    from zhiyin.data.project_config import write_config
    from zhiyin.models.registry import hyperparameters

    if config.exists() and not force:
        raise ConfigError("there are settings already", file=config, remedy="look at them, or overwrite: --force")
    settings = config_of_sources(source, items, users, query, links, assume, images)
    if query_timeout is not None:
        settings.data.query_timeout = query_timeout
    data = project_of(settings, config.parent).data()
    _set_guessed_columns(settings, data)
    record_assumed(settings, data)
    make_relative(settings, config.parent)
    config.parent.mkdir(parents=True, exist_ok=True)
    write_config(config, settings, hyperparameters())
    say(repr(data))
    option = "" if config == CONFIG else f" -c {config}"
    if data.assumed:
        say(f"assumed, and written under [read]: {', '.join(data.assumed)}; the notes above say what else it may be")
    say(f"wrote {config}: the columns stand under [columns]; mend there what is guessed wrongly")
    say(f"next: zhiyin check{option}, zhiyin train{option}, zhiyin evaluate{option}")


def _set_guessed_columns(config: Config, data: Dataset) -> None:
    """Set the guessed columns, so that the next reading guesses nothing."""
    if data.roles is None:
        return
    for role in ("user", "item", "time", "rating", "kind"):
        if column := getattr(data.roles, role):
            setattr(config.columns, role, column)
    for role in ("item_columns", "user_columns"):
        if columns := getattr(data.roles, role):
            setattr(config.columns, role, list(columns))
