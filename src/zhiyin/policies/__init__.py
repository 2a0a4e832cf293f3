"""Policies: what to show when unsure. Bandits that learn from rewards, and the simulators to try them on.

A new policy is one file here and one line in `POLICIES`.
"""

# The module of each policy, below `zhiyin`. Modules are imported at first use.
POLICIES = {
    "EpsilonGreedy": "policies.epsilon_greedy",
    "Softmax": "policies.softmax",
    "SquareCB": "policies.square_cb",
    "LinUCB": "policies.lin_ucb",
    "LinTS": "policies.lin_ts",
    "BetaBernoulli": "policies.beta_bernoulli",
    "TopKReinforce": "policies.reinforce",
}
