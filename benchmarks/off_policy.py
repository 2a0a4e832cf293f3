"""Off-policy evaluation: 10 million rows, and the estimators' errors on `digits` beside published ones.

    python benchmarks/off_policy.py rows                      # all eight estimators with SLOPE on 10 M rows in memory
    python benchmarks/off_policy.py rows --rows 1000000
    python benchmarks/off_policy.py digits                    # 30 runs; needs scikit-learn, a few minutes
    python benchmarks/off_policy.py digits --runs 5
    python benchmarks/off_policy.py slates --obp obp-0.5.5    # the unpacked source of obp 0.5.5; a minute
    python benchmarks/off_policy.py differences               # coverage of the difference to the log; some seconds

`digits` turns a classification into a bandit, as the obp package does (its examples/multiclass): logistic regression
logs, a forest of 30 trees is the target, boosting is the reward model, cross-fitted in three folds. A mean passes if it
lies within 2 · deviation / √30 of the published one. `slates` draws obp's synthetic
lists (3 of 10 items, 10,000 lists, uniform logging, as in its notebook synthetic_slate) by obp's own generator, and
evaluates them here. `differences` draws logs of 10,000 impressions of 80 items at random, .34 % clicks; targets
differ from the log everywhere or on a tenth of the impressions; it counts how often the interval of target minus log
holds the truth. `pip download obp==0.5.5 --no-deps --ignore-requires-python` has the source.
"""

from __future__ import annotations

import argparse
import importlib
import math
import resource
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.policies.off_policy import ESTIMATORS, SLATE_ESTIMATORS, LoggedDecisions, LoggedSlates, evaluate_off_policy
from zhiyin.policies.off_policy.estimate_intervals import INTERVALS, IntervalSettings, difference_interval_of
from zhiyin.policies.off_policy.estimate_sums import EstimateSums, terms_of

# Mean and deviation of relative errors that obp's notebook prints for 30 runs.
PUBLISHED = {
    "dm": (0.436541, 0.017629), "ips": (0.030288, 0.024506), "snips": (0.022764, 0.017917), "dr": (0.016156, 0.012679),
    "sndr": (0.022082, 0.016865), "switch_dr": (0.034657, 0.018575), "dros": (0.015868, 0.012537),
}  # fmt: skip
# Truth, and squared errors of SIPS, IIPS and RIPS, that obp's notebook prints for its "optimal" policy.
PUBLISHED_SLATES = (1.612541, {"sips": 0.000283, "iips": 0.003849, "rips": 0.000201})
LIMITS = (10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0, 10_000.0, math.inf)
SEED = 12345


def rows(n: int, repeats: int) -> None:
    rng = np.random.default_rng(0)
    propensities = rng.uniform(0.05, 0.5, n)
    target = rng.uniform(0, 2, n) * propensities  # weights of mean 1
    rewards = (rng.random(n) < 0.0034).astype(np.float64)
    predicted = rng.uniform(0.002, 0.005, n)
    log = LoggedDecisions(rewards, propensities, target, predicted_chosen=predicted, predicted_target=predicted)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(repeats):
        begun, processor = time.perf_counter(), time.process_time()
        result = evaluate_off_policy(log)
        print(f"{n:,} rows, {len(result.estimates)} estimators: {time.perf_counter() - begun:.2f} s, "
              f"{time.process_time() - processor:.2f} s of processor time")  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"memory beyond the log's own arrays: {(after - before) / 1024:.0f} MiB")
    print(result)


def digits(n_runs: int) -> None:
    from sklearn.datasets import load_digits

    contexts, labels = load_digits(return_X_y=True)
    errors: dict[str, list[float]] = {name: [] for name in PUBLISHED}
    for run in range(n_runs):
        log, truth = one_run(contexts, labels, run)
        limits: dict[str, Any] = {"switch_dr": LIMITS, "dros": LIMITS}
        result = evaluate_off_policy(log, list(PUBLISHED), limits=limits, refuse=False)
        for name in PUBLISHED:
            errors[name].append(abs(result[name].value - truth) / truth)
    print(f"{'':10} {'published':>20} {'here':>20}  within 2 s.e.")
    means = {name: float(np.mean(values)) for name, values in errors.items()}
    for name, (mean, deviation) in PUBLISHED.items():
        passes = abs(means[name] - mean) <= 2 * deviation / math.sqrt(30)
        here = f"{means[name]:.6f} ± {np.std(errors[name], ddof=1):.6f}"
        print(f"{ESTIMATORS[name].title:10} {f'{mean:.6f} ± {deviation:.6f}':>20} {here:>20}  {passes}")
    ordered = means["dros"] < means["dr"] < means["sndr"] and means["snips"] < means["ips"]
    print("order dros < dr < sndr, snips < ips, switch_dr < dm:", ordered and means["switch_dr"] < means["dm"])


def one_run(contexts: np.ndarray, labels: np.ndarray, run: int) -> tuple[LoggedDecisions, float]:
    """The log of one run with its reward model's predictions, and the target policy's true value."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold, train_test_split

    train, test, train_labels, test_labels = train_test_split(contexts, labels, test_size=0.7, random_state=run)
    n, each = len(test), np.arange(len(test))

    def policy(classifier: Any, alpha: float) -> np.ndarray:
        chosen = classifier.fit(train, train_labels).predict(test).astype(int)
        probabilities = np.full((n, 10), (1 - alpha) / 10)
        probabilities[each, chosen] = alpha + (1 - alpha) / 10
        return probabilities

    logging = policy(LogisticRegression(random_state=SEED, C=100, max_iter=10_000), 0.4)
    forest = RandomForestClassifier(random_state=SEED, n_estimators=30, max_depth=5, min_samples_leaf=10)
    target = policy(forest, 0.9)
    legacy = np.random.RandomState(run)
    actions = np.array([legacy.choice(10, p=probabilities, replace=False) for probabilities in logging])
    rewards = (actions == test_labels).astype(np.float64)

    predicted = np.empty((n, 10))
    one_hot = np.eye(10)
    for seen, held_out in KFold(3, shuffle=True, random_state=SEED).split(test):
        boosting = HistGradientBoostingClassifier(
            random_state=SEED, max_iter=30, learning_rate=0.01, max_depth=5, min_samples_leaf=10
        )
        boosting.fit(np.column_stack([test[seen], one_hot[actions[seen]]]), rewards[seen])
        for action in range(10):
            features = np.column_stack([test[held_out], np.tile(one_hot[action], (len(held_out), 1))])
            predicted[held_out, action] = boosting.predict_proba(features)[:, 1]
    log = LoggedDecisions(
        rewards, logging[each, actions], target[each, actions],
        predicted_chosen=predicted[each, actions], predicted_target=(predicted * target).sum(axis=1),
    )  # fmt: skip
    return log, float(target[each, test_labels].mean())


def slates(folder: Path) -> None:
    for name in ("obp", "obp.dataset"):  # without their __init__, which imports torch and more
        module = types.ModuleType(name)
        module.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = module
    generator = importlib.import_module("obp.dataset.synthetic_slate")
    rewards_of = importlib.import_module("obp.dataset.synthetic").logistic_reward_function
    data = generator.SyntheticSlateBanditDataset(
        n_unique_action=10, len_list=3, dim_context=2, reward_type="binary", reward_structure="cascade_additive",
        click_model=None, random_state=SEED, behavior_policy_function=None, base_reward_function=rewards_of,
    )  # fmt: skip
    drawn = data.obtain_batch_bandit_feedback(n_rounds=10_000, return_pscore_item_position=True)
    appeal = rewards_of(context=drawn["context"], action_context=data.action_context, random_state=SEED)
    for name, logit in (("optimal", 3 * appeal), ("anti-optimal", -3 * appeal)):
        _, at_position, prefix = data.obtain_pscore_given_evaluation_policy_logit(drawn["action"], logit)
        truth = data.calc_ground_truth_policy_value(drawn["context"], logit)
        log = LoggedSlates(
            drawn["reward"].reshape(-1, 3), _conditional(drawn["pscore_cascade"]), _conditional(prefix),
            drawn["pscore_item_position"].reshape(-1, 3), at_position.reshape(-1, 3),
        )  # fmt: skip
        print(f"{name}: truth {truth:.6f}", f"(published {PUBLISHED_SLATES[0]})" if name == "optimal" else "")
        for entry in ("sips", "iips", "rips"):
            value = SLATE_ESTIMATORS[entry].estimate(log)
            published = f"(published {PUBLISHED_SLATES[1][entry]})" if name == "optimal" else ""
            print(f"  {entry} {value:.6f}, squared error {(value - truth) ** 2:.6f} {published}")


def _conditional(prefix: np.ndarray) -> np.ndarray:
    """Probabilities of slots given those above, from prefix products of 3 slots a list."""
    prefix = prefix.reshape(-1, 3)
    return np.minimum(prefix / np.column_stack([np.ones(len(prefix)), prefix[:, :-1]]), 1.0)


def differences(n_rows: int, replications: int) -> None:
    """Each log is counts of its cells: item, whether the target decides there, click or none."""
    rng = np.random.default_rng(7)
    n_items = 80
    rates = rng.beta(1.0, 20.0, n_items)
    rates *= 0.0034 / rates.mean()
    preferred = rng.dirichlet(np.full(n_items, 0.4))
    for share in (1.0, 0.1):
        target = np.concatenate([preferred, np.full(n_items, 1 / n_items)])  # where it decides, and where not
        chances = np.concatenate([np.full(n_items, share), np.full(n_items, 1 - share)]) / n_items
        chances = np.concatenate([chances * np.tile(rates, 2), chances * np.tile(1 - rates, 2)])
        cells = LoggedDecisions(
            np.repeat([1.0, 0.0], 2 * n_items), np.full(4 * n_items, 1 / n_items), np.tile(target, 2)
        )
        terms = terms_of(cells, ESTIMATORS["ips"], np.inf, cells.importance_weights)
        truth = share * float((preferred - 1 / n_items) @ rates)
        counts = rng.multinomial(n_rows, chances, replications)
        print(f"target differs on {share:.0%} of the impressions: {truth:+.6f} clicks, of {rates.mean():.6f}; "
              f"largest weight {cells.importance_weights.max():.1f}")  # fmt: skip
        for method in INTERVALS:
            ends = np.empty((replications, 2))
            settings = IntervalSettings(method, 0.05, 0.0, 1.0, None, n_rows, method == "normal", method == "normal")
            for row, count in enumerate(counts):
                sums = EstimateSums(ESTIMATORS["ips"], np.inf, 0.0)
                sums.add(terms[:, count > 0])
                sums.totals, sums.gram, sums.n = terms @ count, (terms * count) @ terms.T, n_rows
                ends[row] = difference_interval_of(sums, settings)[:2]
            covered = float(np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])))
            print(f"  {method:19} covers {covered:.1%}, width {np.mean(ends[:, 1] - ends[:, 0]):.6f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rows", "digits", "slates", "differences"])
    parser.add_argument("--rows", type=int, help="10,000,000; of differences 10,000")
    parser.add_argument("--replications", type=int, default=1000, help="of differences")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--obp", type=Path, default=Path("obp-0.5.5"))
    options = parser.parse_args()
    if options.what == "rows":
        rows(options.rows or 10_000_000, options.repeats)
    elif options.what == "differences":
        differences(options.rows or 10_000, options.replications)
    elif options.what == "slates":
        slates(options.obp)
    else:
        digits(options.runs)


if __name__ == "__main__":
    main()
