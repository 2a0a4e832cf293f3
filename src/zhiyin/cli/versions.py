"""`zhiyin versions|promote|rollback|diff`: list trained versions, choose the one in use, compare two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.cli.options import CONFIG, ConfigFile, Json

if TYPE_CHECKING:
    from zhiyin.pipeline.model_versions import Bundle, Bundles


def versions(
    version: Annotated[int | None, typer.Argument(min=1, help="Show this one, and write its report.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The report; default version-N.html.")] = None,
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """List all versions and which is in use. One whose manifest is damaged is listed with the reason.

    With the number of a version, show how it was judged and trained, and write its report: searches of
    hyperparameters, training curves, what each source adds.

    \b
    Examples:
      zhiyin versions
      zhiyin versions 3
      zhiyin versions 3 -o report.html
    """
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.core.errors import DataError

    bundles = bundles_of(config)
    if version is not None:
        _show(bundles.get(version), output or config.parent / f"version-{version}.html", json)
        return
    try:
        in_use = bundles.current_number
    except DataError as error:
        say(str(error))
        in_use = None
    rows = [_row(bundles, version, in_use) for version in bundles.versions()]
    if json:
        print_json(rows)
    elif rows:
        columns = [name for name in rows[0] if name != "damaged" or any(row["damaged"] for row in rows)]
        print_table(columns, [["" if row[name] is None else row[name] for name in columns] for row in rows])
    else:
        say(f"no versions in {bundles.folder}; make one: zhiyin train --budget 10m")


def _show(bundle: Bundle, page: Path, json: bool) -> None:
    """Print how a version was judged and trained, and write its report."""
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.core.errors import MissingExtraError
    from zhiyin.core.training_log import how_it_ended
    from zhiyin.evaluation.training_logs import training_logs
    from zhiyin.pipeline.version_report import write_version_report

    report, logs = bundle.report(), training_logs(bundle.model_folder)
    if json:
        print_json({"version": bundle.version, "manifest": {k: v for k, v in bundle.manifest.items() if k != "files"},
                    "report": report, "training": logs})  # fmt: skip
    else:
        manifest = bundle.manifest
        rows = [["model", manifest["model"]], ["made", manifest["made"]], *manifest["figures"].items()]
        print_table(["what", f"version {bundle.version}"], [*rows, *manifest["data"].items()])
        if report.get("judged", {}).get("why"):
            say(str(report["judged"]["why"]))
        for log in logs.values():
            for sentence in how_it_ended(log):
                say(sentence)
    try:
        say(f"wrote {write_version_report(bundle, page)}")
    except MissingExtraError as error:
        say(str(error))


def promote(
    version: Annotated[int, typer.Argument(min=1, help="Number of the version.")],
    config: ConfigFile = CONFIG,
) -> None:
    """Put a version in use, after comparing its files with their checksums and loading its model.

    \b
    Examples:
      zhiyin promote 3
    """
    from zhiyin.cli.output import say

    bundle = bundles_of(config).promote(version, "by hand", load=True)
    say(f"version {bundle.version} is in use")


def rollback(config: ConfigFile = CONFIG) -> None:
    """Put the version that was in use before in use again.

    \b
    Examples:
      zhiyin rollback
    """
    from zhiyin.cli.output import say

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
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.core.errors import DataError
    from zhiyin.pipeline.model_versions import manifest_difference

    bundles = bundles_of(config)
    other = bundles.get(new) if new is not None else bundles.current
    if other is None:
        raise DataError("no version is in use", file=bundles.folder, remedy="name two: zhiyin diff 1 2")
    differences = manifest_difference(bundles.get(old), other)
    if json:
        print_json({name: {"old": a, "new": b} for name, (a, b) in differences.items()})
    elif differences:
        print_table(["what", str(old), str(other.version)], [[name, a, b] for name, (a, b) in differences.items()])
    else:
        say("nothing differs")


def bundles_of(config: Path) -> Bundles:
    """The versions of a project, in the folder of its models."""
    from zhiyin.cli.project import open_project
    from zhiyin.pipeline.model_versions import Bundles

    project = open_project(config)
    return Bundles(project.home / project.config.train.output / "bundles")


def _row(bundles: Bundles, version: int, in_use: int | None) -> dict[str, Any]:
    from zhiyin.core.errors import DataError

    row: dict[str, Any] = {"version": version, "in use": "yes" if version == in_use else ""}
    try:
        manifest = bundles.get(version).manifest
        figures = manifest["figures"].items()
        return row | {
            "made": manifest["made"],
            "model": manifest["model"],
            "events": manifest["data"]["events"],
            "figures": ", ".join(f"{name} {value:.4f}" for name, value in figures if isinstance(value, float)),
            "damaged": None,
        }
    except (DataError, KeyError, TypeError, AttributeError) as error:
        reason = error.message if isinstance(error, DataError) else "bundle.json does not hold what it should"
        return row | {"made": None, "model": None, "events": None, "figures": "", "damaged": reason}
