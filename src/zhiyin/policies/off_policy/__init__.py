"""Off-policy evaluation: what another policy would have earned, from the log of the one that ran.

Arrays in, arrays out. `evaluate_off_policy` (single decisions) and `evaluate_slates` (lists) are the ways in;
estimators, intervals and diagnostics can be used alone.
"""

from zhiyin.policies.off_policy.estimators import ESTIMATORS, Estimator, estimator_named
from zhiyin.policies.off_policy.evaluation import evaluate_off_policy
from zhiyin.policies.off_policy.logged_decisions import LoggedDecisions
from zhiyin.policies.off_policy.logged_slates import LoggedSlates
from zhiyin.policies.off_policy.marginalized import marginalize_by_cluster, marginalize_by_vector
from zhiyin.policies.off_policy.off_policy_result import Estimate, OffPolicyResult
from zhiyin.policies.off_policy.open_bandit_log import OpenBanditLog, read_open_bandit
from zhiyin.policies.off_policy.refusal import Refusal, refusal
from zhiyin.policies.off_policy.reward_model import cross_fitted_predictions
from zhiyin.policies.off_policy.slate_estimators import SLATE_ESTIMATORS, SlateEstimator, evaluate_slates
from zhiyin.policies.off_policy.slope import tune_limit
from zhiyin.policies.off_policy.support import Support, mass_on_unlogged_actions, support_of
from zhiyin.policies.off_policy.vowpal_wabbit_log import DsjsonLog, first_action_target, uniform_target

__all__ = [
    "ESTIMATORS",
    "SLATE_ESTIMATORS",
    "DsjsonLog",
    "Estimate",
    "Estimator",
    "LoggedDecisions",
    "LoggedSlates",
    "OffPolicyResult",
    "OpenBanditLog",
    "Refusal",
    "SlateEstimator",
    "Support",
    "cross_fitted_predictions",
    "estimator_named",
    "evaluate_off_policy",
    "evaluate_slates",
    "first_action_target",
    "marginalize_by_cluster",
    "marginalize_by_vector",
    "mass_on_unlogged_actions",
    "read_open_bandit",
    "refusal",
    "support_of",
    "tune_limit",
    "uniform_target",
]
