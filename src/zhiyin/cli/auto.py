"""What `zhiyin train --budget` does: a pipeline made, judged on the last days, kept as a version, used if better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhiyin.cli.project import Project, short
from zhiyin.cli.show import duration, print_json, say, table

if TYPE_CHECKING:
    from zhiyin.pipeline.bundles import Bundles

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

    from zhiyin.core.durations import microseconds
    from zhiyin.data.catalogue import Catalogue
    from zhiyin.data.doctor import examine
    from zhiyin.pipeline.automl import auto
    from zhiyin.pipeline.gate import gate
    from zhiyin.pipeline.windows import gate_split

    begun, made = time.monotonic(), datetime.now(UTC)
    seconds = microseconds(budget) / 1e6
    data = project.data(store=store)
    say(repr(data))
    for line in short(examine(data, project.config.split.test)):
        say(line)
    # What decides is how it does on days it has not seen, whatever evaluate is set to.
    part = gate_split(data, project.config.split.test, project.run)
    exclude_seen = project.config.evaluate.exclude_seen
    pipeline = auto(part.train, GATE * seconds, exclude_seen=exclude_seen, run=project.run)
    tell(pipeline.report_)
    used = bundles.current
    rivals = {f"version {used.version}": used.load()} if used is not None else {}
    verdict = gate(pipeline, part, rivals, exclude_seen=exclude_seen, run=project.run)
    say(f"unseen days: {verdict.why}")
    whole = pipeline.refit(data, project.run)
    figures: dict[str, Any] = {verdict.metric: verdict.figures["candidate"], "users": verdict.users}
    figures |= {name: value for name, value in verdict.figures.items() if name != "candidate"}
    report = {"judged": verdict.said(), "pipeline": pipeline.report_}
    bundle = bundles.write(whole, figures=figures, report=report, catalogue=Catalogue.of(data), made=made)
    promoted = verdict.passed or force
    if promoted:
        bundles.promote(bundle.version, verdict.why if verdict.passed else f"forced; {verdict.why}")
    if json:
        print_json({"version": bundle.version, "promoted": promoted, "report": report})
        return
    say(f"version {bundle.version} kept in {bundle.folder}, {duration(time.monotonic() - begun)}")
    if promoted:
        say(f"version {bundle.version} is in use. next: zhiyin recommend {data.user_ids.values[0]}")
    else:
        say("it is NOT in use: it does not beat what it must (see above). to use it anyway: "
            f"zhiyin promote {bundle.version}")  # fmt: skip


def tell(report: dict[str, Any]) -> None:
    """What was tried, what was chosen for whom, and what each source adds."""
    for tried in report.get("tried", []):
        left = tried.get("left_out")
        tuned = tried.get("tuned")
        say(f"source {tried['source']} ({tried['why']})" + (f": left out, {left}" if left else "")
            + (f": tuned to {tuned}, {tried['value']:.4f} from {tried['before']:.4f}" if tuned else ""))  # fmt: skip
    for note in report["notes"]:
        say(f"windows: {note}")
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
