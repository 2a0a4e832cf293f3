"""Off-policy evaluation: what another policy would have earned, from the log of the one that ran.

Arrays in, arrays out. `evaluate_off_policy` is the way in; estimators, intervals and diagnostics can be used alone.
"""

from zhiyin.policies.off_policy.estimators import ESTIMATORS, Estimator, estimator_named
from zhiyin.policies.off_policy.evaluation import evaluate_off_policy
from zhiyin.policies.off_policy.logged_decisions import LoggedDecisions
from zhiyin.policies.off_policy.off_policy_result import Estimate, OffPolicyResult
from zhiyin.policies.off_policy.refusal import Refusal, refusal
from zhiyin.policies.off_policy.slope import tune_limit
from zhiyin.policies.off_policy.support import Support, mass_on_unlogged_actions, support_of

__all__ = [
    "ESTIMATORS",
    "Estimate",
    "Estimator",
    "LoggedDecisions",
    "OffPolicyResult",
    "Refusal",
    "Support",
    "estimator_named",
    "evaluate_off_policy",
    "mass_on_unlogged_actions",
    "refusal",
    "support_of",
    "tune_limit",
]
