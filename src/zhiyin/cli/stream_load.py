"""`zhiyin stream load`: results of streams into the state that the service reads."""

from __future__ import annotations

from typing import Annotated

import typer

from zhiyin.cli.options import CONFIG, ConfigFile


def load(
    once: Annotated[bool, typer.Option("--once", help="Load what is there, then end.")] = False,
    config: ConfigFile = CONFIG,
) -> None:
    """Load what the jobs have committed into [service] streams, each file once. Ctrl-C ends it.

    With [service] streams, zhiyin serve loads by itself.

    \b
    Examples:
      zhiyin stream load
      zhiyin stream load --once
    """
    from zhiyin.cli.output import say
    from zhiyin.cli.project import open_project, opened_store
    from zhiyin.cli.streams import opened_stream_state, stop_on_signals
    from zhiyin.core.durations import SECOND, microseconds
    from zhiyin.data.project_config import streams_folder
    from zhiyin.engines.stream_loader import StreamLoader

    project = open_project(config)
    settings = project.config.streams
    pause, keep_log = microseconds(settings.every) / SECOND, microseconds(settings.keep) / SECOND
    folder = streams_folder(project.config, project.home)
    with (
        opened_store(project) as store,
        opened_stream_state(project, store) as state,
        StreamLoader(folder, state, store, keep_log=keep_log) as loader,
        stop_on_signals() as stop,
        project.run.bar("Loading", None) as advance,
    ):
        if once:
            say(f"{loader.run_once(advance, stop):,} rows of {folder / 'output'} were loaded")
        else:
            say(f"loading from {folder / 'output'}; Ctrl-C ends it")
            loader.run(stop, pause, advance)
        if "histories" in settings.jobs:
            say(f"histories hold all events up to number {state.mark:,}")
