"""A/A experiments: how often results of no difference raise an alarm, looked at once and looked at a hundred times.

    python benchmarks/experiments.py [--experiments 1000] [--looks 100] [--units 10000]
    python benchmarks/experiments.py --returning --experiments 300 --units 2000

Units have a number of clicks that is rare and uneven; arms are assigned by the hash that the service assigns by. New
units come all the time; with --returning they also come back, so that what a unit has done grows between two looks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from scipy import stats

from zhiyin.api.experiment_settings import ExperimentSettings
from zhiyin.pipeline.experiment_results import judged
from zhiyin.policies.experiments.arm_statistics import Sample
from zhiyin.policies.experiments.assignment import Experiment
from zhiyin.policies.experiments.comparisons import ratio, sample_ratio_p_value, welch

# Visits of a unit between two looks, in the mean, where units return.
VISITS = 0.2


def looks_at_new_units(
    arms: np.ndarray, looks: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(clicks, lists, seen) at each look, float[units] and bool[units]: every unit has one list."""
    n = len(arms)
    clicks = rng.poisson(rng.gamma(0.5, 0.2, n)).astype(float)
    for end in np.linspace(0, n, looks + 1).round().astype(int)[1:]:
        yield clicks, np.ones(n), np.arange(n) < end


def looks_at_returning_units(
    arms: np.ndarray, looks: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """As `looks_at_new_units`, where units come back after their first list."""
    n = len(arms)
    rates, first = rng.gamma(0.5, 0.4, n), rng.random(n)
    clicks, lists = np.zeros(n), np.zeros(n)
    for look in range(1, looks + 1):
        visits = rng.poisson(VISITS, n) * (first < look / looks)
        lists = lists + visits
        clicks = clicks + rng.poisson(rates * visits)
        yield clicks, lists, lists > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=1_000)
    parser.add_argument("--looks", type=int, default=100)
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--returning", action="store_true")
    options = parser.parse_args()
    metrics = {"clicks": {"events": {"click": 1}}}
    settings = ExperimentSettings.model_validate(
        {"arms": {"control": {}, "b": {}}, "metrics": metrics, "planned_units": options.units}
    )
    rng = np.random.default_rng(0)
    users = [f"user-{n}" for n in range(options.units)]
    look_at = looks_at_returning_units if options.returning else looks_at_new_units
    p_values, ratio_p = [], []
    alarms = dict.fromkeys(("fixed", "anytime", "anytime, per list"), 0)
    for number in range(options.experiments):
        arms = Experiment(f"null-{number}", {"control": 1, "b": 1}).assign(users)
        alarmed = set()
        for clicks, lists, seen in look_at(arms, options.looks, rng):
            parts = [seen & (arms == arm) for arm in (0, 1)]
            counts = [int(part.sum()) for part in parts]
            if min(counts) < 2:
                continue
            samples = [Sample.of(clicks[part], lists[part]) for part in parts]
            active = int((clicks[seen] > 0).sum())
            one = judged(settings, "clicks", "b", welch(*samples), counts, active)
            per_list = judged(settings, "clicks", "b", ratio(*samples), counts, active)
            alarmed |= {"fixed"} if one.fixed.p_value < 0.05 else set()
            alarmed |= {"anytime"} if one.verdict != "open" else set()
            alarmed |= {"anytime, per list"} if per_list.verdict != "open" else set()
        for name in alarmed:
            alarms[name] += 1
        p_values.append(one.fixed.p_value)
        ratio_p.append(sample_ratio_p_value(counts, [1, 1]))
    n = options.experiments
    print(f"experiments without a difference: {n}, {options.units} users each, {options.looks} looks")
    print(f"uniform p-values at the end: KS p = {stats.kstest(p_values, 'uniform').pvalue:.3f}")
    print(f"alarms at the end, one look: {np.mean(np.array(p_values) < 0.05):.2%}")
    print(f"alarms of the sample ratio at 5 %: {np.mean(np.array(ratio_p) < 0.05):.2%}")
    for name, count in alarms.items():
        print(f"alarms at any look, {name} interval: {count / n:.2%}")


if __name__ == "__main__":
    main()
