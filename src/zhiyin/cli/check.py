"""`zhiyin check`: checks of the data; with --serving, the training-serving skew of the ranker's features."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from zhiyin.cli.options import CONFIG, Assume, ConfigFile, Engine, EngineFolder, EngineOptions, Json
from zhiyin.core.errors import ConfigError


def check(
    source: Annotated[str | None, typer.Argument(help="A file or folder; default what the settings name.")] = None,
    assume: Assume = None,
    strict: Annotated[bool, typer.Option("--strict", help="A bad row is an error.")] = False,
    serving: Annotated[
        bool, typer.Option("--serving", help="Compare features of served lists with the log, instead of the data.")
    ] = False,
    lists: Annotated[int, typer.Option("--lists", min=1, help="With --serving: lists to compare, the newest.")] = 50,
    config: ConfigFile = CONFIG,
    json: Json = False,
    engine: Engine = None,
    engine_folder: EngineFolder = None,
    engine_option: EngineOptions = None,
) -> None:
    """Say what is wrong, or merely odd, with the data, and what to do about it.

    Bad rows go to quarantine.csv with their line and reason. Exit code 3: the data has errors. Of the project also what
    its service cannot use and sets aside, as zhiyin doctor tells it.

    With --serving the features that served lists were ranked by ([service] log_features says of how many they are
    kept) are made again from the log of the store and compared. Exit code 1: they are not the same.

    \b
    Examples:
      zhiyin check
      zhiyin check ratings.csv --strict
      zhiyin check --json | jq '.findings[].name'
      zhiyin check --engine spark://host:7077
      zhiyin check --serving
      zhiyin check --serving --lists 500 --json
    """
    if serving:
        if engine is not None:
            raise ConfigError("--serving compares lists of the store, in this process", remedy="leave out --engine")
        check_serving(config, lists, json)
        return
    from zhiyin.cli.doctor import print_set_aside, set_aside_items
    from zhiyin.cli.engine import opened_work
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.cli.project import config_of_sources, open_project, project_of
    from zhiyin.core.atomic_files import whole_file
    from zhiyin.data.checks import examine

    if source:
        project = project_of(config_of_sources(source, None, None, assume=assume), config.parent)
    else:
        project = open_project(config, assume=assume)
    with opened_work(engine, engine_folder, engine_option, project.home) as work:
        data = project.data(strict or None, store=source is None, read=None if work is None else work.read)
        findings = examine(data, project.config.split.test)
    quarantine = None
    if len(data.quarantine):
        quarantine = project.home / "quarantine.csv"
        with whole_file(quarantine) as draft:
            data.quarantine.write_csv(draft)
        say(f"{len(data.quarantine):,} bad rows written to {quarantine}")
    unused = [] if source else set_aside_items(config)
    failed = any(finding.severity == "error" for finding in findings)
    if json:
        print_json(
            {
                "events": data.n_events,
                "users": data.n_users,
                "items": data.n_items,
                "findings": [dataclasses.asdict(finding) for finding in findings],
                "quarantine": {"rows": len(data.quarantine), "file": str(quarantine) if quarantine else None},
                **({"set aside": unused} if unused else {}),
            }
        )
    else:
        say(repr(data))
        rows = [(finding.severity, finding.name, finding.message, finding.remedy) for finding in findings]
        print_table(("severity", "finding", "what", "what to do"), rows)
        print_set_aside(unused)
    if failed:
        raise typer.Exit(3)


def check_serving(config: Path, lists: int, json: bool) -> None:
    """Print the training-serving skew of the lists that a project's service has made."""
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.cli.project import open_project, opened_store
    from zhiyin.service.feature_skew import MAX_DELAY_SECONDS, TOLERANCE, compare_newest
    from zhiyin.service.settings import read_settings

    with opened_store(open_project(config)) as store:
        skew = compare_newest(read_settings(config), store, lists)
    if json:
        print_json(skew.to_dict())
    else:
        say(f"{skew.lists} lists, {skew.rows} rows, {skew.values:,} values compared")
        for why, number in skew.left_out.items():
            say(f"{number} lists left out: {why}")
        if skew.lists:
            rows = [(name, f"{gap:.3g}", "same" if gap <= TOLERANCE else "differs") for name, gap in skew.worst()]
            print_table(("feature", "largest difference", f"up to {TOLERANCE:g}"), rows)
        if skew.behind > MAX_DELAY_SECONDS:
            say(f"an event had been kept for {skew.behind:,.0f} s while the ranker did not know of it")
        elif not skew.lists:
            say("no list with features was found: [service] log_features says of what share they are kept")
    if not skew.within:
        raise typer.Exit(1)
