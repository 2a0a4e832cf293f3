"""A/A experiments: how often results of no difference raise an alarm, looked at once and looked at a hundred times.

    python benchmarks/experiments.py [--experiments 1000] [--looks 100] [--units 10000]

Units have a number of clicks that is rare and uneven; arms are assigned by the hash that the service assigns by.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from zhiyin.api.experiment_settings import ExperimentSettings
from zhiyin.pipeline.experiment_results import judged
from zhiyin.policies.experiments.arm_statistics import Sample
from zhiyin.policies.experiments.assignment import Experiment
from zhiyin.policies.experiments.comparisons import sample_ratio_p_value, welch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=1_000)
    parser.add_argument("--looks", type=int, default=100)
    parser.add_argument("--units", type=int, default=10_000)
    options = parser.parse_args()
    metrics = {"clicks": {"events": {"click": 1}}}
    settings = ExperimentSettings.model_validate(
        {"arms": {"control": {}, "b": {}}, "metrics": metrics, "planned_units": options.units}
    )
    rng = np.random.default_rng(0)
    users = [f"user-{n}" for n in range(options.units)]
    ends = np.linspace(0, options.units, options.looks + 1).round().astype(int)[1:]
    p_values, ratio_p, naive, anytime = [], [], 0, 0
    for number in range(options.experiments):
        arms = Experiment(f"null-{number}", {"control": 1, "b": 1}).assign(users)
        clicks = rng.poisson(rng.gamma(0.5, 0.2, options.units)).astype(float)
        sums = [np.cumsum([(arms == arm), clicks * (arms == arm), clicks**2 * (arms == arm)], axis=1) for arm in (0, 1)]
        alarmed = [False, False]
        for end in ends:
            samples = [Sample(int(n), float(y), float(yy)) for n, y, yy in (part[:, end - 1] for part in sums)]
            if min(sample.n for sample in samples) < 2:
                continue
            active = int((clicks[:end] > 0).sum())
            one = judged(settings, "clicks", "b", welch(*samples), [sample.n for sample in samples], active)
            alarmed[0] |= one.fixed.p_value < 0.05
            alarmed[1] |= one.verdict != "open"
        naive, anytime = naive + alarmed[0], anytime + alarmed[1]
        p_values.append(one.fixed.p_value)
        ratio_p.append(sample_ratio_p_value([sample.n for sample in samples], [1, 1]))
    n = options.experiments
    print(f"experiments without a difference: {n}, {options.units} users each, {options.looks} looks")
    print(f"uniform p-values at the end: KS p = {stats.kstest(p_values, 'uniform').pvalue:.3f}")
    print(f"alarms at the end, one look: {np.mean(np.array(p_values) < 0.05):.2%}")
    print(f"alarms of the sample ratio at 5 %: {np.mean(np.array(ratio_p) < 0.05):.2%}")
    print(f"alarms at any look, fixed interval: {naive / n:.2%}")
    print(f"alarms at any look, anytime interval: {anytime / n:.2%}")


if __name__ == "__main__":
    main()
