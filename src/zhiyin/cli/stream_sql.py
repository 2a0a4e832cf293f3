"""`zhiyin stream sql`: the SQL of the jobs, as it is submitted to Flink."""

from __future__ import annotations

from typing import Annotated

import typer

from zhiyin.cli.options import CONFIG, ConfigFile


def sql(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="A job; default all of [streams] jobs.")] = None,
    config: ConfigFile = CONFIG,
) -> None:
    """Print the SQL of jobs, with the settings of this project. Flink's own client runs what is printed of one job.

    \b
    Examples:
      zhiyin stream sql
      zhiyin stream sql trending
      zhiyin stream sql trending > trending.sql
    """
    from zhiyin.cli.project import open_project, project_of
    from zhiyin.core.durations import UNITS, microseconds
    from zhiyin.data.project_config import Config, streams_folder
    from zhiyin.engines.flink.jobs import JobOptions, rendered_sql

    exists = config != CONFIG or config.is_file()
    project = open_project(config) if exists else project_of(Config(), config.parent)
    streams = project.config.streams
    options = JobOptions(
        streams_folder(project.config, project.home), streams.source, microseconds(streams.checkpoint) / UNITS["s"]
    )
    jobs = streams.jobs if job is None else [job]
    typer.echo("\n".join(rendered_sql(name, options) for name in jobs), nl=False)
