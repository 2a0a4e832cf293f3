"""What `zhiyin train --goal rating` prints of the blend that the gate is about to judge."""

from __future__ import annotations

from typing import Any

from zhiyin.cli.output import print_table, say


def print_rating_report(report: dict[str, Any], table: bool = True) -> None:
    """Print which models were tried, what they weigh and add, and with `table` predictions against ratings."""
    for tried in report["tried"]:
        if "left_out" in tried:
            say(f"model {tried['source']} ({tried['why']}): left out, {tried['left_out']}")
    for note in report["notes"]:
        say(f"note: {note}")
    weights = ", ".join(f"{name} {weight:+.3f}" for name, weight in report["weights"].items())
    say(f"blend: {weights}")
    whole = report["without"].get("none")
    for name, value in report["without"].items():
        if name != "none" and whole is not None:
            say(f"without {name}: rmse {value:.4f} ({value - whole:+.4f})")
    if "blend" not in report:
        return
    figures, baseline = report["blend"]["figures"], report["user + item bias"]["figures"]
    say("held back to judge: " + ", ".join(
        f"{name} {value:.4f} (user + item bias {baseline[name]:.4f})" for name, value in figures.items()
    ))  # fmt: skip
    if table:
        rows = report["blend"]["calibration"]
        print_table(
            ["predicted", "ratings", "mean prediction", "mean rating"],
            [[f"{row['from']:.2f} - {row['to']:.2f}", row["ratings"], row["predicted"], row["true"]] for row in rows],
        )
