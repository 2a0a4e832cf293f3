"""What `zhiyin train --budget` does: a pipeline made, judged on the last days, kept as a version, used if it may be.

Where it may not, the version in use learns anew from all events, so that what is shown does not grow old.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhiyin.cli.output import duration, print_json, say, table
from zhiyin.cli.project import Project, short
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

# Share of the budget that goes into the pipeline judged by the gate; the rest fits its sources on all of the log.
GATE = 0.85


def train_within(
    project: Project, budget: str, output: Path | None, force: bool, json: bool, *, store: bool = True
) -> None:
    """Make, judge and keep a pipeline within a time such as "10m". Raises BusyError while another one is made."""
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

    begun, made = time.monotonic(), datetime.now(UTC)
    seconds = microseconds(budget) / 1e6
    data = project.data(store=store)
    say(repr(data))
    for line in short(examine(data, project.config.split.test)):
        say(line)
    # What decides is how it does on days it has not seen, whatever evaluate is set to.
    exclude_seen = project.config.evaluate.exclude_seen
    part, reason = None, ""
    try:
        part = gate_split(data, project.config.split.test, project.run, exclude_seen)
        for warning in part.warnings:
            say(f"unseen days: {warning}")
    except DataError as error:  # a version that nobody can judge is better than none
        reason = error.message
        say(f"unseen days: there are none to judge by: {error}")
    pipeline = auto(part.train if part else data, GATE * seconds, exclude_seen=exclude_seen, run=project.run)
    tell(pipeline.report_, choices=not json)
    used, in_use = _in_use(bundles)
    rivals = {f"version {used.version}": in_use} if used is not None and in_use is not None else {}
    margin = project.config.train.margin
    judge = partial(gate, split=part, margin=margin, exclude_seen=exclude_seen, run=project.run) if part else None
    verdict = judge(pipeline, rivals=rivals) if judge else not_judged(reason, margin=margin, first=not rivals)
    say(f"unseen days: {verdict.why}")
    catalogue = Catalogue.of(data)
    bundle = _keep(bundles, pipeline.refit(data, project.run), verdict, verdict.why, catalogue, made)
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
        if part and judge and verdict.users and used is not None and isinstance(in_use, Pipeline) and stale:
            refitted = _learn_anew(bundles, used.version, in_use, bundle.version, part, data, judge, made, project.run)
    if json:
        report = bundle.report()
        print_json({"version": bundle.version, "promoted": promoted, "report": report,
                    "refitted": refitted and refitted.version})  # fmt: skip


def _in_use(bundles: Bundles) -> tuple[Bundle | None, Recommender | None]:
    """The version in use and its model; none where it cannot be used: training is what mends that."""
    try:
        used = bundles.current
        if used is None:
            return None, None
        used.verify()
        return used, used.load()
    except ZhiyinError as error:
        say(f"the version in use cannot be used, and the new one is not compared with it: {error.message}")
        return None, None


def _learn_anew(
    bundles: Bundles,
    version: int,
    model: Pipeline,
    rejected: int,
    part: Split,
    data: Dataset,
    judge: Callable[..., Verdict],
    made: datetime,
    run: Run,
) -> Bundle | None:
    """What is in use, learned from all events and put in use. As a first version it must be no worse than popular."""
    try:
        verdict = judge(model.refit(part.train, run))
        if not verdict.passed:
            return None
        again = model.refit(data, run)
    except ZhiyinError as error:
        say(f"version {version} stays as it is, for it cannot learn from this log: {error}")
        return None
    from zhiyin.data.catalogue import Catalogue

    why = f"version {version}, learned anew, for version {rejected} did not pass; {verdict.why}"
    bundle = _keep(bundles, again, verdict, why, Catalogue.of(data), made)
    bundles.promote(bundle.version, why)
    say(f"version {bundle.version} is in use: it is version {version}, learned anew from all events")
    return bundle


def _keep(
    bundles: Bundles, model: Pipeline, verdict: Verdict, why: str, catalogue: Catalogue, made: datetime
) -> Bundle:
    """A version with what it was judged by."""
    figures: dict[str, Any] = {"users": verdict.users}
    if verdict.users:
        figures = {verdict.metric: verdict.figures["candidate"], **figures}
    figures |= {name: value for name, value in verdict.figures.items() if name != "candidate"}
    report = {"judged": verdict.to_dict() | {"why": why}, "pipeline": model.report_}
    return bundles.write(model, figures=figures, report=report, catalogue=catalogue, made_at=made)


def tell(report: dict[str, Any], choices: bool = True) -> None:
    """What was tried, what was chosen for whom (a table on standard output, if asked for), what each source adds."""
    for tried in report.get("tried", []):
        left = tried.get("left_out")
        tuned = tried.get("tuned")
        say(f"source {tried['source']} ({tried['why']})" + (f": left out, {left}" if left else "")
            + (f": tuned to {tuned}, {tried['value']:.4f} from {tried['before']:.4f}" if tuned else ""))  # fmt: skip
    for note in report["notes"]:
        say(f"windows: {note}")
    if choices:
        methods = list(report["choices"]["all"]["figures"])
        table(
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
