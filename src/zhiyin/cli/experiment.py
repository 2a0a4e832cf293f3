"""`zhiyin experiment`: list experiments, show what one has shown, stop one or an arm, also while the service runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zhiyin.cli.options import CONFIG, ConfigFile, Json

if TYPE_CHECKING:
    from zhiyin.cli.project import Project
    from zhiyin.pipeline.experiment_results import ExperimentResults
    from zhiyin.pipeline.experiment_state import ExperimentVersion
    from zhiyin.service.experiments import Experiments
    from zhiyin.store.store import Store

app = typer.Typer(help="Experiments of the service: which arm is better.", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="Name of the experiment.")]


@app.command("list")
def list_(config: ConfigFile = CONFIG, json: Json = False) -> None:
    """All experiments: placement, arms with their weights, and whether they run.

    \b
    Examples:
      zhiyin experiment list
    """
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.service.experiment_versions import experiment_json

    with _project_and_store(config) as (project, store):
        experiments = _experiments(project, store)
        versions = experiments.all()
        issues = experiments.health_issues()
        if config.is_file():
            issues += experiments.file_issues(config, list(project.config.placements)).values()
    for issue in issues:
        say(f"{issue.what}: {issue.reason}; {issue.remedy}")
    if json:
        print_json([experiment_json(version, experiments.issue_of(version.name)) for version in versions])
        return
    print_table(
        ("name", "kind", "placement", "unit", "arms", "state"),
        [
            (one.name, one.settings.kind, one.settings.placement, one.settings.unit, _arms(one),
             _state(one, experiments.issue_of(one.name)))
            for one in versions
        ],
    )  # fmt: skip


@app.command()
def status(
    name: Name,
    plot: Annotated[
        Path | None, typer.Option(help="Where the picture goes; default experiment-NAME.html beside the settings.")
    ] = None,
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """What an experiment has shown: a table, and a picture as an HTML page.

    Two intervals stand with each difference: `fixed` holds where the number of units was planned beforehand, `anytime`
    however often one looks. With --json a picture is made only where --plot names its file.

    \b
    Examples:
      zhiyin experiment status ranker
      zhiyin experiment status ranker --json --plot ranker.html
    """
    from zhiyin.cli.output import print_json, say
    from zhiyin.core.errors import MissingExtraError
    from zhiyin.pipeline.experiment_plot import write_experiment_plot
    from zhiyin.service.experiment_job import ExperimentEvaluator

    with _project_and_store(config) as (project, store):
        version = _version(store, name)
        results = ExperimentEvaluator(store).results(version)
        issue = _experiments(project, store).issue_of(name)
    if json:
        print_json(results.to_dict())
    else:
        _print_results(version, results, issue)
    if json and plot is None:
        return
    try:
        path = write_experiment_plot(results, plot or config.parent / f"experiment-{_file_name(name)}.html")
        say(f"wrote {path}")
    except MissingExtraError as error:
        say(f"no picture: {error}")


@app.command()
def stop(
    name: Name,
    arm: Annotated[str | None, typer.Option(help="Stop this arm alone: its units get the control's lists.")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept with the version.")] = "",
    config: ConfigFile = CONFIG,
) -> None:
    """Stop an experiment, or an arm; running services follow with the next request, or within a second.

    \b
    Examples:
      zhiyin experiment stop ranker --reason "b is better, promoted"
      zhiyin experiment stop ranker --arm b
    """
    from zhiyin.cli.output import say
    from zhiyin.service.experiment_versions import change_experiment, stopped_version

    with _project_and_store(config) as (_, store):
        number = change_experiment(store, name, stopped_version(name, arm, reason, "command", store.clock()))
    say(f"{name}: {'it' if arm is None else f'arm {arm}'} is stopped, by version {number}")


def _print_results(version: ExperimentVersion, results: ExperimentResults, issue: str) -> None:
    from zhiyin.cli.output import print_table, say

    say(f"{version.name}: {_state(version, issue)}; lists of {_moment(results.started)} to {_moment(results.until)}")
    print_table(
        ("arm", "weight", "units", "lists", "state"),
        [(arm.name, round(arm.weight, 4), arm.units, arm.lists, f"stopped: {arm.stopped}" if arm.stopped is not None
          else "control" if arm.name == results.control else "") for arm in results.arms],
    )  # fmt: skip
    if results.interleaving is not None:
        summary, one = results.interleaving, results.interleaving.preference
        print_table(
            ("first", "second", "first wins", "second wins", "ties", "preference", "interval", "p"),
            [(summary.first, summary.second, one.first_wins, one.second_wins, one.ties, round(one.preference, 4),
              _range(one.low, one.high), one.p_value)],
        )  # fmt: skip
        return
    mark = (
        "" if results.sample_ratio_ok else ": the numbers of units do not fit the weights; nothing below means anything"
    )
    say(f"sample ratio p = {results.sample_ratio_p_value:.3g}{mark}")
    print_table(
        ("metric", "arm", "control", "value", "lift %", "fixed", "p", "anytime", "verdict"),
        [
            (row.metric, row.arm, row.fixed.control, row.fixed.treatment, round(100 * row.fixed.lift, 2),
             _range(row.fixed.low, row.fixed.high), row.fixed.p_value, _range(row.anytime.low, row.anytime.high),
             row.verdict if row.enough else "too few units")
            for row in results.comparisons
        ],
    )  # fmt: skip
    for look in results.looks:
        crossed = [row["arm"] for row in look["arms"] if row["crossed"]]
        rows = ", ".join(f"{row['arm']} z = {row['z']:.2f}" for row in look["arms"])
        verdict = f"crossed by {', '.join(crossed)}" if crossed else "not crossed"
        say(
            f"look {look['look']} of {look['of']}, {look['units']:,} units: {rows}; bound {look['bound']:.2f} {verdict}"
        )


def _version(store: Store, name: str) -> ExperimentVersion:
    """The newest version of an experiment. Raises ConfigError where there is none, or it cannot be read."""
    from zhiyin.core.errors import ConfigError
    from zhiyin.service.experiment_checks import UnknownExperimentError
    from zhiyin.service.experiment_versions import read_experiments

    versions, issues = read_experiments(store)
    if name in issues:
        raise ConfigError(f"{issues[name].what}: {issues[name].reason}", remedy=issues[name].remedy)
    if name not in versions:
        raise UnknownExperimentError(f"there is no experiment {name!r}", remedy="zhiyin experiment list")
    return versions[name]


def _arms(version: ExperimentVersion) -> str:
    shares = version.assignment.probabilities
    stopped = version.state.stopped
    return ", ".join(f"{arm} {share:.2f}{' (stopped)' if arm in stopped else ''}" for arm, share in shares.items())


def _state(version: ExperimentVersion, issue: str) -> str:
    """issue: why it takes no part though it was not stopped; "" where it does."""
    if version.state.ended is not None:
        reason = version.state.ended.reason
        return f"stopped {_moment(version.state.ended.time)}" + (f": {reason}" if reason else "")
    if issue:
        return f"cannot run: {issue}"
    return f"runs since {_moment(version.state.started)}" if version.is_running else "not enabled"


def _range(low: float, high: float) -> str:
    return f"{low:.4g} to {high:.4g}"


def _moment(time: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _file_name(name: str) -> str:
    """The name of an experiment as part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[:100]


def _experiments(project: Project, store: Store) -> Experiments:
    """The experiments of a store, checked against its placements and the versions of the models."""
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.service.experiments import Experiments
    from zhiyin.service.placements import Placements

    bundles = Bundles(project.home / project.config.train.output / "bundles")
    return Experiments(store, None, Placements(store, None, None), bundles.versions)


@contextmanager
def _project_and_store(config: Path) -> Iterator[tuple[Project, Store]]:
    from zhiyin.cli.project import open_project, opened_store, project_of
    from zhiyin.data.project_config import Config

    without_settings = config == CONFIG and not config.is_file()  # `zhiyin serve` needs no settings file either
    project = project_of(Config(), config.parent) if without_settings else open_project(config)
    with opened_store(project) as store:
        yield project, store
