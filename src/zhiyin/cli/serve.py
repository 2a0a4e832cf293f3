"""`zhiyin serve`: the HTTP service with the version in use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zhiyin.cli.options import CONFIG


def serve(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0: any that is free.")] = 8000,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that answer; default as the settings say, 1.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Where events are kept: a path, or postgresql://…; default store.db.")
    ] = None,
    retrain: Annotated[
        str | None, typer.Option(help='Train anew: every "6h", or at "0 3 * * *" (minute hour day month weekday, UTC).')
    ] = None,
    log: Annotated[str, typer.Option(help="How the log is written: text or json.")] = "text",
    access_log: Annotated[bool, typer.Option("--access-log", help="A line for each request.")] = False,
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", "-c", help="Settings file; once for each shop to be served, apart from each other."),
    ] = None,
) -> None:
    """Answer over HTTP: events in, recommendations out. Needs a version in use: zhiyin train --budget 10m.

    The first start makes keys and shows them once. A version that is promoted while it runs is taken up by itself.

    \b
    Examples:
      zhiyin serve
      zhiyin serve --retrain "0 3 * * *" --workers 2
      zhiyin serve --host 0.0.0.0 --port 80 --store 'postgresql://shop@db/zhiyin'
      zhiyin serve --config films/zhiyin.toml --config books/zhiyin.toml
    """
    from zhiyin.cli.output import say
    from zhiyin.core.errors import ConfigError
    from zhiyin.service.retrain import Schedule
    from zhiyin.service.server import Plan
    from zhiyin.service.server import serve as answer
    from zhiyin.service.settings import read_settings

    files = config or [CONFIG]
    if len(files) > 1 and (store or retrain):
        raise ConfigError(
            "--store and --retrain are for one shop", remedy="write them under [service] of each settings file"
        )
    if log not in ("text", "json"):
        raise ConfigError(f"--log {log!r} is no way to write", remedy="text or json")
    if retrain is not None:
        Schedule.parse(retrain)
    if store is not None and "://" not in store:
        store = str(Path(store).resolve())
    shops = [read_settings(file.resolve(), needed=config is not None) for file in files]
    workers = workers or max(shop.config.service.workers for shop in shops)
    plan = Plan.of(shops, store=store, workers=workers, retrain=retrain, log=log, access_log=access_log)
    raise typer.Exit(answer(plan, host, port, say))
