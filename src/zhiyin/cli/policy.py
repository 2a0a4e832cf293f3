"""`zhiyin policy`: how the policies of placements do, and the controls that act on the next request."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.cli.options import CONFIG, ConfigFile, Json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zhiyin.service.policy_administration import PolicyAdministration

app = typer.Typer(
    help="Policies of placements: what they decide, and who lets them. Running services follow at their next request.",
    no_args_is_help=True, rich_markup_mode=None,
)  # fmt: skip
Name = Annotated[str, typer.Argument(help="Name of the placement that has the policy.")]


@app.command("list")
def list_(config: ConfigFile = CONFIG, json: Json = False) -> None:
    """All policies: kind, mode, snapshot, and why one does not decide.

    \b
    Examples:
      zhiyin policy list
      zhiyin policy list --json
    """
    from zhiyin.cli.output import print_json, print_table, say

    with _administration(config) as policies:
        rows = [policies.summary(name) for name in policies.names()]
    if json:
        print_json(rows)
    elif not rows:
        say("no placement has a policy: write [placements.NAME.policy], or PUT /v1/placements/NAME")
    else:
        print_table(
            ("name", "kind", "mode", "snapshot", "reason", "decisions learned"),
            [(row["name"], row["kind"], row["mode"], row["snapshot"], row["reason"],
              row["learned"].get("decisions", 0)) for row in rows],
        )  # fmt: skip


@app.command()
def show(name: Name, config: ConfigFile = CONFIG, json: Json = False) -> None:
    """One policy: its settings, what it has learned, what was decided about it.

    \b
    Examples:
      zhiyin policy show home
      zhiyin policy show home --json
    """
    from zhiyin.cli.output import print_json, print_table

    with _administration(config) as policies:
        details = policies.details(name)
    if json:
        print_json(details)
        return
    history = details.pop("history")
    settings = details.pop("settings")
    nested = {key: details.pop(key) for key in ("learned", "guard", "monitors")}
    rows: list[tuple[Any, ...]] = [(key, "" if value is None else value) for key, value in details.items()]
    rows += [(f"settings.{key}", value) for key, value in settings.items()]
    rows += [(f"{part}.{key}", value) for part, values in nested.items() for key, value in values.items()]
    rows += [(f"decided {_moment(row['time'])}", _change(row)) for row in history]
    print_table(("what", "value"), rows)


@app.command()
def promote(
    name: Name,
    mode: Annotated[str | None, typer.Option(help="apprentice, guarded or online; default the next one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also where the log does not show it to be better.")] = False,
    config: ConfigFile = CONFIG,
) -> None:
    """Let a policy decide more: from shadow to apprentice, guarded and online.

    Beyond apprentice it is refused where the log does not show that the policy earns more than the baseline.

    \b
    Examples:
      zhiyin policy promote home
      zhiyin policy promote home --mode online --force
    """
    from zhiyin.api.requests import POLICY_MODES
    from zhiyin.cli.output import say
    from zhiyin.core.errors import ConfigError, suggest

    if mode is not None and mode not in POLICY_MODES:
        raise ConfigError(f"there is no mode {mode!r}", remedy=suggest(mode, list(POLICY_MODES)))
    with _administration(config) as policies:
        before = policies.summary(name)["mode"]
        gate = policies.promote(name, mode, force)
        present = policies.summary(name)["mode"]
    demoted = POLICY_MODES.index(present) < POLICY_MODES.index(before)
    say(f"{name} is demoted from {before} to mode {present}" if demoted else f"{name} is in mode {present}")
    if gate is not None:
        for reason in gate.reasons:
            say(f"promoted by force, though {reason}")


@app.command()
def rollback(
    name: Name,
    snapshot: Annotated[int | None, typer.Option(min=0, help="That decides until unfreeze; 0: the prior.")] = None,
    config: ConfigFile = CONFIG,
) -> None:
    """Take back the last promotion or choice of a snapshot; or have an older snapshot decide.

    Whether a policy is frozen or killed is changed by freeze, unfreeze, kill and revive alone.

    \b
    Examples:
      zhiyin policy rollback home
      zhiyin policy rollback home --snapshot 12
    """
    with _administration(config) as policies:
        policies.rollback(name, snapshot)
        _say_present(policies, name)


@app.command()
def freeze(name: Name, config: ConfigFile = CONFIG) -> None:
    """Learn nothing from now on; the present snapshot goes on deciding.

    \b
    Examples:
      zhiyin policy freeze home
    """
    with _administration(config) as policies:
        policies.freeze(name)
        _say_present(policies, name)


@app.command()
def unfreeze(name: Name, config: ConfigFile = CONFIG) -> None:
    """Learn again, also from the decisions that were made meanwhile.

    \b
    Examples:
      zhiyin policy unfreeze home
    """
    with _administration(config) as policies:
        policies.unfreeze(name)
        _say_present(policies, name)


@app.command()
def kill(name: Name, config: ConfigFile = CONFIG) -> None:
    """Have the baseline make every list from the next request on.

    \b
    Examples:
      zhiyin policy kill home
    """
    with _administration(config) as policies:
        policies.kill(name)
        _say_present(policies, name)


@app.command()
def revive(name: Name, config: ConfigFile = CONFIG) -> None:
    """Let a killed policy decide again.

    \b
    Examples:
      zhiyin policy revive home
    """
    with _administration(config) as policies:
        policies.revive(name)
        _say_present(policies, name)


@contextmanager
def _administration(config: Path) -> Iterator[PolicyAdministration]:
    """The policies of the project's store."""
    from zhiyin.cli.project import open_project, opened_store
    from zhiyin.service.placements import Placements
    from zhiyin.service.policy_administration import PolicyAdministration

    with opened_store(open_project(config)) as store:
        yield PolicyAdministration(store, Placements(store, None, None))


def _say_present(policies: PolicyAdministration, name: str) -> None:
    from zhiyin.cli.output import say

    present = policies.summary(name)
    reason = f" ({present['reason']})" if present["reason"] else ""
    say(f"{name} is in mode {present['mode']}, snapshot {present['snapshot']}{reason}")


def _change(row: dict[str, Any]) -> str:
    """What was decided, in words."""
    parts = [f"mode {row['mode']}"] if row["mode"] else []
    parts += [word for word in ("frozen", "killed") if row[word]]
    parts += [f"snapshot {row['snapshot']}"] if row["snapshot"] is not None else []
    return f"{row['by']}: {', '.join(parts) or 'as the settings say'}"


def _moment(time: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
