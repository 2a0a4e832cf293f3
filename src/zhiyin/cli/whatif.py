"""`zhiyin whatif`: what another configuration would have earned, from the log, before it is in use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zhiyin.cli.options import ConfigFile, Json

if TYPE_CHECKING:
    from zhiyin.pipeline.whatif import WhatIfResult
    from zhiyin.service.whatif_replay import Snapshot

PROJECT = Path("zhiyin.toml")


def whatif(
    settings: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="Settings that are asked about; default the project's own."),
    ] = None,
    placement: Annotated[str | None, typer.Option(help="Whose lists are read; default the only one decided.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="First moment: 2026-11-30, or 7d for 7 days ago.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Last moment, likewise.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Another version of the models.")] = None,
    as_placement: Annotated[
        str | None, typer.Option("--as", metavar="PLACEMENT", help="By the settings of another placement.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="Of the policy: online, guarded, apprentice or shadow.")] = None,
    snapshot: Annotated[
        str, typer.Option(help="Learned state of the policy: newest, logged (that of each list), or its number.")
    ] = "newest",
    log: Annotated[
        Path | None,
        typer.Option(help="Another log: dsjson, a CSV file like Open Bandit's, or a folder of zhiyin store export."),
    ] = None,
    target: Annotated[
        str, typer.Option(help="With --log: uniform, first, epsilon-greedy:SHARE, or a folder of a saved policy.")
    ] = "uniform",
    limit: Annotated[int, typer.Option(min=1, help="The newest lists that are read.")] = 20_000,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Of the intervals.")] = 0.95,
    interval: Annotated[
        str, typer.Option(help="clopper_pearson, gamma, normal, empirical_bernstein or anytime.")
    ] = "clopper_pearson",
    config: ConfigFile = PROJECT,
    json: Json = False,
) -> None:
    """What another configuration would have earned per list, without showing it to anybody.

    The lists that a placement's policy has decided are made again with other settings, another version, or both:
    retrieval, ranking, rules and policy. Each counts by how much more often the other configuration would have made
    it. The answer has an interval, also of the difference to what was earned; or it is refused, with what to log.

    \b
    Examples:
      zhiyin whatif new.toml                        other rules, placements or policies
      zhiyin whatif new.toml --placement home --from 7d
      zhiyin whatif --version 12                    the same settings, other models
      zhiyin whatif --as home-b --placement home    by the settings of another placement
      zhiyin whatif --log decisions.json --target epsilon-greedy:0.1
      zhiyin whatif new.toml --json | jq .verdict
    """
    from zhiyin.cli.output import print_json
    from zhiyin.cli.project import open_project
    from zhiyin.core.errors import ConfigError
    from zhiyin.core.run import Run
    from zhiyin.policies.off_policy.estimate_intervals import check_interval
    from zhiyin.service.whatif import whatif as what_if

    check_interval(interval)
    store = None
    if log is None:
        store = open_project(config).store_address
    elif settings is not None or version is not None:
        raise ConfigError(
            "with --log, a policy is asked, not a configuration", remedy="leave CONFIG and --version out; give --target"
        )
    result = what_if(
        settings, placement=placement, since=since, until=until, log=log, target=target, version=version,
        as_placement=as_placement, mode=_mode(mode), snapshot=_snapshot(snapshot),
        limit=limit, project=config, store=store, confidence=confidence, interval=interval, run=Run(),
    )  # fmt: skip
    if json:
        print_json(result.to_dict())
    else:
        _print(result)
    if result.refusal is not None:
        raise typer.Exit(1)


def _snapshot(text: str) -> Snapshot:
    from zhiyin.core.errors import ConfigError

    if text == "newest":
        return "newest"
    if text == "logged":
        return "logged"
    if not text.isdigit():
        raise ConfigError(f"there is no snapshot {text!r}", remedy="newest, logged, or a number")
    return int(text)


def _mode(mode: str | None) -> str | None:
    from zhiyin.api.requests import POLICY_MODES
    from zhiyin.core.errors import ConfigError, suggest

    if mode is not None and mode not in POLICY_MODES:
        raise ConfigError(f"there is no mode {mode!r}", remedy=suggest(mode, list(POLICY_MODES)))
    return mode


def _print(result: WhatIfResult) -> None:
    from zhiyin.cli.output import print_table, say
    from zhiyin.pipeline.whatif import HEADER

    where = f" at {result.placement}" if result.placement else ""
    if result.rows():
        print_table(HEADER, result.rows(), f"What if: {result.target}{where}, reward per {result.unit}")
    if result.slots:
        print_table(
            ["slot", "earned", "mean weight", "±", "worth", "supported"],
            [[slot.slot, slot.logged_reward, slot.mean_weight, slot.mean_weight_error, slot.effective_size,
              slot.lack or "yes"] for slot in result.slots],
            "Support, from the first slot to each",
        )  # fmt: skip
    say(result.verdict())
    if result.refusal is not None:
        say(str(result.refusal))
    for note in result.notes():
        say(note)
