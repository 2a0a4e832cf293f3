"""`zhiyin versions|promote|rollback|diff`: which trained version is in use, and what differs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.cli.options import CONFIG, ConfigFile, Json

if TYPE_CHECKING:
    from zhiyin.pipeline.bundles import Bundle, Bundles


def versions(config: ConfigFile = CONFIG, json: Json = False) -> None:
    """The versions there are, and which is in use.

    \b
    Examples:
      zhiyin versions
    """
    from zhiyin.cli.show import print_json, say, table

    bundles = bundles_of(config)
    used = bundles.current
    rows = [_row(bundles.get(version), used) for version in bundles.versions()]
    if json:
        print_json(rows)
    elif rows:
        table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        say(f"no versions in {bundles.folder}; make one: zhiyin train --budget 10m")


def promote(
    version: Annotated[int, typer.Argument(min=1, help="Number of the version.")],
    config: ConfigFile = CONFIG,
) -> None:
    """Put a version in use, after comparing its files with their checksums.

    \b
    Examples:
      zhiyin promote 3
    """
    from zhiyin.cli.show import say

    bundle = bundles_of(config).promote(version, "by hand")
    say(f"version {bundle.version} is in use")


def rollback(config: ConfigFile = CONFIG) -> None:
    """Put back in use the version that was in use before.

    \b
    Examples:
      zhiyin rollback
    """
    from zhiyin.cli.show import say

    bundle = bundles_of(config).rollback()
    say(f"version {bundle.version} is in use again")


def diff(
    old: Annotated[int, typer.Argument(min=1, help="A version.")],
    new: Annotated[int | None, typer.Argument(min=1, help="Another; left out, the one in use.")] = None,
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """What differs between two versions: settings, data, figures, code.

    \b
    Examples:
      zhiyin diff 1 2
      zhiyin diff 1
    """
    from zhiyin.cli.show import print_json, say, table
    from zhiyin.core.errors import DataError
    from zhiyin.pipeline.bundles import difference

    bundles = bundles_of(config)
    other = bundles.get(new) if new is not None else bundles.current
    if other is None:
        raise DataError("no version is in use", file=bundles.folder, remedy="name two: zhiyin diff 1 2")
    found = difference(bundles.get(old), other)
    if json:
        print_json({name: {"old": a, "new": b} for name, (a, b) in found.items()})
    elif found:
        table(["what", str(old), str(other.version)], [[name, a, b] for name, (a, b) in found.items()])
    else:
        say("nothing differs")


def bundles_of(config: Path) -> Bundles:
    """The versions of a project, beside its models."""
    from zhiyin.cli.project import open_project
    from zhiyin.pipeline.bundles import Bundles

    project = open_project(config)
    return Bundles(project.home / project.config.train.output / "bundles")


def _row(bundle: Bundle, used: Bundle | None) -> dict[str, Any]:
    said = bundle.manifest
    figures = ", ".join(f"{name} {value:.4f}" for name, value in said["figures"].items() if isinstance(value, float))
    return {
        "version": bundle.version,
        "in use": "yes" if used is not None and used.version == bundle.version else "",
        "made": said["made"],
        "model": said["model"],
        "events": said["data"]["events"],
        "figures": figures,
    }
