"""`zhiyin sessions`: the sessions of the log as a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zhiyin.cli.options import (
    CONFIG,
    Assume,
    ConfigFile,
    Engine,
    EngineFolder,
    EngineOptions,
    Json,
    NoStore,
    checked_duration,
)


def sessions(
    output: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    gap: Annotated[
        str, typer.Option(callback=checked_duration, help="Time without an event that ends a session.")
    ] = "30m",
    assume: Assume = None,
    no_store: NoStore = False,
    config: ConfigFile = CONFIG,
    json: Json = False,
    engine: Engine = None,
    engine_folder: EngineFolder = None,
    engine_option: EngineOptions = None,
) -> None:
    """Write the sessions of all events: user, first and last moment, numbers of events and of different items.

    A time without an event that is as long as --gap, or longer, ends a session.

    \b
    Examples:
      zhiyin sessions sessions.parquet
      zhiyin sessions sessions.parquet --gap 1h
      zhiyin sessions sessions.parquet --engine spark://host:7077
    """
    from zhiyin.cli.engine import opened_work
    from zhiyin.cli.output import print_json, say
    from zhiyin.cli.project import open_project
    from zhiyin.core.atomic_files import whole_file
    from zhiyin.data.sessions import sessions as sessions_of

    project = open_project(config, assume=assume)
    with opened_work(engine, engine_folder, engine_option, project.home) as work:
        data = project.data(store=not no_store, read=None if work is None else work.read)
        if work is not None:
            n = work.write_sessions(data, output, gap, project.run)
        else:
            table = sessions_of(data, gap)
            n = len(table)
            with whole_file(output) as draft:
                table.write_parquet(draft)
    if json:
        print_json({"sessions": n, "path": str(output)})
    else:
        say(f"{n:,} sessions written to {output}")
