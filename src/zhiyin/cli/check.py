"""`zhiyin check`: the data doctor."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from zhiyin.cli.options import CONFIG, ConfigFile, Json


def check(
    source: Annotated[str | None, typer.Argument(help="A file or folder; default what the settings name.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="A bad row is an error.")] = False,
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """Say what is wrong, or merely odd, with the data, and what to do about it.

    Bad rows go to quarantine.csv with their line and reason. Exit code 3: the data has errors.

    \b
    Examples:
      zhiyin check
      zhiyin check ratings.csv --strict
      zhiyin check --json | jq '.findings[].name'
    """
    from zhiyin.cli.project import open_project, project_of, settle
    from zhiyin.cli.show import print_json, say, table
    from zhiyin.data.doctor import examine

    project = project_of(settle(source, None, None), config.parent) if source else open_project(config)
    data = project.data(strict or None, store=source is None)
    findings = examine(data, project.config.split.test)
    quarantine = None
    if len(data.quarantine):
        quarantine = project.home / "quarantine.csv"
        data.quarantine.write_csv(quarantine)
        say(f"{len(data.quarantine):,} bad rows written to {quarantine}")
    failed = any(finding.severity == "error" for finding in findings)
    if json:
        print_json(
            {
                "events": data.n_events,
                "users": data.n_users,
                "items": data.n_items,
                "findings": [dataclasses.asdict(finding) for finding in findings],
                "quarantine": {"rows": len(data.quarantine), "file": str(quarantine) if quarantine else None},
            }
        )
    else:
        say(repr(data))
        rows = [(found.severity, found.name, found.message, found.remedy) for found in findings]
        table(("severity", "finding", "what", "what to do"), rows)
    if failed:
        raise typer.Exit(3)
