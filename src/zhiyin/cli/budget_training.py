"""`zhiyin train --budget`: build a pipeline, evaluate it on the last days, save it as a version, promote it if the gate
lets it pass.

Where the gate does not, the version in use is fitted again on all events, so that recommendations stay recent.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhiyin.cli.output import duration, print_json, print_table, say
from zhiyin.cli.project import Project, finding_lines
from zhiyin.core.errors import DataError, ZhiyinError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from zhiyin.core.run import Run
    from zhiyin.data.catalogue import Catalogue
    from zhiyin.data.dataset import Dataset
    from zhiyin.data.splits import Split
    from zhiyin.models.recommender import Recommender
    from zhiyin.pipeline.bundles import Bundle, Bundles
    from zhiyin.pipeline.pipeline import Pipeline
    from zhiyin.pipeline.promotion_gate import Verdict

# Share of the budget for the pipeline that the gate evaluates; the rest refits its sources on the whole log.
GATED_BUDGET_SHARE = 0.85


def train_within(
    project: Project, budget: str, output: Path | None, force: bool, json: bool, *, store: bool = True
) -> None:
    """Build, evaluate and save a pipeline within a time such as "10m". Raises BusyError while another one is built."""
    from zhiyin.pipeline.bundles import Bundles

    bundles = Bundles((output or project.home / project.config.train.output) / "bundles")
    with bundles.training():
        _train(project, bundles, budget, force, json, store)


def _train(project: Project, bundles: Bundles, budget: str, force: bool, json: bool, store: bool) -> None:
    import time
    from datetime import UTC, datetime
    from functools import partial

    from zhiyin.core.durations import microseconds
    from zhiyin.data.catalogue import Catalogue
    from zhiyin.data.doctor import examine
    from zhiyin.pipeline.automl import auto
    from zhiyin.pipeline.pipeline import Pipeline
    from zhiyin.pipeline.promotion_gate import gate, not_judged
    from zhiyin.pipeline.selection_windows import gate_split

    begun, created = time.monotonic(), datetime.now(UTC)
    seconds = microseconds(budget) / 1e6
    data = project.data(store=store)
    say(repr(data))
    for line in finding_lines(examine(data, project.config.split.test)):
        say(line)
    # The gate always uses days that the pipeline has not seen, whatever [evaluate] says.
    exclude_seen = project.config.evaluate.exclude_seen
    gate_data, reason = None, ""
    try:
        gate_data = gate_split(data, project.config.split.test, project.run, exclude_seen)
        for warning in gate_data.warnings:
            say(f"unseen days: {warning}")
    except DataError as error:  # a version that nobody can judge is better than none
        reason = error.message
        say(f"unseen days: there are none to judge by: {error}")
    pipeline = auto(
        gate_data.train if gate_data else data, GATED_BUDGET_SHARE * seconds, exclude_seen=exclude_seen, run=project.run
    )
    print_report(pipeline.report_, choices=not json)
    used, in_use = _in_use(bundles)
    rivals = {f"version {used.version}": in_use} if used is not None and in_use is not None else {}
    margin = project.config.train.margin
    judge = (
        partial(gate, split=gate_data, margin=margin, exclude_seen=exclude_seen, run=project.run) if gate_data else None
    )
    verdict = judge(pipeline, rivals=rivals) if judge else not_judged(reason, margin=margin, first=not rivals)
    say(f"unseen days: {verdict.why}")
    catalogue = Catalogue.of(data)
    bundle = _write_version(bundles, pipeline.refit(data, project.run), verdict, verdict.why, catalogue, created)
    promoted = verdict.passed or force
    if promoted:
        bundles.promote(bundle.version, verdict.why if verdict.passed else f"forced; {verdict.why}")
    say(f"version {bundle.version} kept in {bundle.folder}, {duration(time.monotonic() - begun)}")
    refitted = None
    if promoted:
        say(f"version {bundle.version} is in use. next: zhiyin recommend {data.user_ids.values[0]}")
    else:
        lacking = "it is shown to be worse than it may be" if verdict.worse else "too few users to show that it may be"
        lacking = lacking if verdict.users else "nobody could be judged"
        say(f"it is NOT in use: {lacking} (see above). to use it anyway: zhiyin promote {bundle.version}")
        stale = in_use is not None and in_use._context().fingerprint != data.fingerprint
        if gate_data and judge and verdict.users and used is not None and isinstance(in_use, Pipeline) and stale:
            refitted = _refit_version_in_use(
                bundles, used.version, in_use, bundle.version, gate_data, data, judge, created, project.run
            )
    if json:
        report = bundle.report()
        print_json({"version": bundle.version, "promoted": promoted, "report": report,
                    "refitted": refitted and refitted.version})  # fmt: skip


def _in_use(bundles: Bundles) -> tuple[Bundle | None, Recommender | None]:
    """The version in use and its model; None for both where it cannot be loaded, which training mends."""
    try:
        used = bundles.current
        if used is None:
            return None, None
        used.verify()
        return used, used.load()
    except ZhiyinError as error:
        say(f"the version in use cannot be used, and the new one is not compared with it: {error.message}")
        return None, None


def _refit_version_in_use(
    bundles: Bundles,
    version: int,
    model: Pipeline,
    rejected: int,
    gate_data: Split,
    data: Dataset,
    judge: Callable[..., Verdict],
    created: datetime,
    run: Run,
) -> Bundle | None:
    """Fit the version in use on all events and promote it, if it passes the gate of a first version.

    Returns None where it does not pass or cannot be fitted.
    """
    try:
        verdict = judge(model.refit(gate_data.train, run))
        if not verdict.passed:
            return None
        refitted = model.refit(data, run)
    except ZhiyinError as error:
        say(f"version {version} stays as it is, for it cannot learn from this log: {error}")
        return None
    from zhiyin.data.catalogue import Catalogue

    why = f"version {version}, learned anew, for version {rejected} did not pass; {verdict.why}"
    bundle = _write_version(bundles, refitted, verdict, why, Catalogue.of(data), created)
    bundles.promote(bundle.version, why)
    say(f"version {bundle.version} is in use: it is version {version}, learned anew from all events")
    return bundle


def _write_version(
    bundles: Bundles, model: Pipeline, verdict: Verdict, why: str, catalogue: Catalogue, created: datetime
) -> Bundle:
    """Save a version with the figures of its verdict."""
    figures: dict[str, Any] = {"users": verdict.users}
    if verdict.users:
        figures = {verdict.metric: verdict.figures["candidate"], **figures}
    figures |= {name: value for name, value in verdict.figures.items() if name != "candidate"}
    report = {"judged": verdict.to_dict() | {"why": why}, "pipeline": model.report_}
    return bundles.write(model, figures=figures, report=report, catalogue=catalogue, made_at=created)


def print_report(report: dict[str, Any], choices: bool = True) -> None:
    """Print which sources were tried and what each adds; with `choices`, a table of the method of each segment."""
    for tried in report.get("tried", []):
        left = tried.get("left_out")
        tuned = tried.get("tuned")
        say(f"source {tried['source']} ({tried['why']})" + (f": left out, {left}" if left else "")
            + (f": tuned to {tuned}, {tried['value']:.4f} from {tried['before']:.4f}" if tuned else ""))  # fmt: skip
    for note in report["notes"]:
        say(f"windows: {note}")
    if choices:
        methods = list(report["choices"]["all"]["figures"])
        print_table(
            ["users", "method", *methods, "why"],
            [
                [name, choice["method"], *map(choice["figures"].get, methods), choice["why"]]
                for name, choice in report["choices"].items()
            ],
        )
    whole = report["without"].get("none")
    for name, value in report["without"].items():
        if name != "none":
            say(f"without {name}: {report['metric']} of the blend {value:.4f} ({whole - value:+.4f} is what it adds)")
