"""The conformance suite of policies: probabilities, propensities, repeatable decisions, slates, learning, saving."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhiyin.core.errors import DataError
from zhiyin.core.run import Run
from zhiyin.policies.action_sets import ActionSets, Outcomes, action_keys, decision_seeds
from zhiyin.policies.loading import load
from zhiyin.policies.policy import Policy
from zhiyin.policies.registry import parse

N_FEATURES = 5


def random_sets(seed: int, n: int, most: int = 9, excluded: bool = True) -> ActionSets:
    """Decisions among 1 to `most` of 20 actions, some of them excluded, with features and scores."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most + 1, n)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    m = offsets[-1]
    actions = np.concatenate([rng.choice(20, size, replace=False) for size in sizes])
    features = rng.normal(size=(m, N_FEATURES)) / 2
    mask = rng.random(m) < 0.3
    mask[offsets[:-1] + rng.integers(0, sizes)] = False
    return ActionSets(offsets, actions, features, rng.random(m), mask if excluded else None)


def random_outcomes(seed: int, n: int) -> Outcomes:
    """Rewards 0 or 1 that depend on the first feature."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, N_FEATURES)) / 2
    return Outcomes(rng.integers(0, 20, n), (rng.random(n) < 1 / (1 + np.exp(-features[:, 0]))).astype(float), features)


def event_seeds(n: int, salt: str = "event") -> np.ndarray:
    return decision_seeds(f"{salt}-{number}" for number in range(n))


def sums(values: np.ndarray, sets: ActionSets) -> np.ndarray:
    return np.add.reduceat(values, sets.offsets[:-1])


class PolicyConformance:
    """Tests of a policy; a subclass sets `text`.

    text: specification of the policy, such as "lints:draws=50".
    """

    text: str

    @classmethod
    def make(cls, **settings: Any) -> Policy:
        return dataclasses.replace(parse(cls.text), **settings)

    @pytest.fixture(scope="class")
    @classmethod
    def taught(cls) -> Policy:
        policy = cls.make()
        policy.update(random_outcomes(1, 300))
        return policy

    def test_probabilities_of_a_decision_sum_to_1(self, taught: Policy) -> None:
        sets = random_sets(2, 200)
        probabilities = taught.probabilities(sets, event_seeds(200))
        assert probabilities.dtype == np.float64
        assert (probabilities >= 0).all()
        assert np.abs(sums(probabilities, sets) - 1).max() <= 1e-9

    def test_excluded_actions_have_exactly_0_and_are_never_chosen(self, taught: Policy) -> None:
        sets = random_sets(3, 300)
        assert sets.excluded is not None
        choices = dataclasses.replace(taught, floor=0.5)
        choices.update(random_outcomes(1, 50))
        result = choices.choose(sets, event_seeds(300))
        assert (result.probabilities[sets.excluded] == 0).all()
        assert not sets.excluded[result.rows].any()

    def test_the_floor_holds(self) -> None:
        policy = self.make(floor=0.2)
        policy.update(random_outcomes(1, 300))
        sets = random_sets(4, 200)
        probabilities = policy.probabilities(sets, event_seeds(200))
        eligible = ~sets.excluded  # type: ignore[operator]
        least = 0.2 / sums(eligible.astype(float), sets)[sets.owners]
        assert (probabilities[eligible] >= least[eligible] * (1 - 1e-12)).all()

    def test_a_floor_of_1_is_uniform(self) -> None:
        sets = random_sets(5, 50, excluded=False)
        probabilities = self.make(floor=1.0).probabilities(sets)
        assert np.allclose(probabilities, 1 / np.diff(sets.offsets)[sets.owners], rtol=1e-12)

    def test_the_order_of_the_actions_does_not_matter(self, taught: Policy) -> None:
        sets, seeds = random_sets(6, 100), event_seeds(100)
        order = np.lexsort([np.random.default_rng(7).random(len(sets.actions)), sets.owners])
        permuted = ActionSets(
            sets.offsets,
            *(part[order] for part in (sets.actions, sets.features, sets.scores, sets.excluded)),  # type: ignore
        )
        expected = taught.probabilities(sets, seeds)[order]
        assert np.allclose(taught.probabilities(permuted, seeds), expected, rtol=1e-9, atol=1e-12)

    def test_actions_that_are_alike_are_chosen_alike(self, taught: Policy) -> None:
        features, scores = np.ones((4, N_FEATURES)), np.full(4, 0.3)
        sets = ActionSets.single([100, 101, 102, 103], features, scores)
        mean = np.mean([taught.probabilities(sets, seed) for seed in event_seeds(200)[:, None]], axis=0)
        assert np.allclose(mean, 0.25, atol=0.03)

    def test_the_propensity_is_the_probability_of_the_choice(self, taught: Policy) -> None:
        sets, seeds = random_sets(8, 200), event_seeds(200)
        choices = taught.choose(sets, seeds)
        assert (choices.propensities == taught.probabilities(sets, seeds)[choices.rows]).all()
        assert (choices.propensities > 0).all()
        assert (sets.owners[choices.rows] == np.arange(200)).all()

    def test_choices_are_drawn_by_the_probabilities(self, taught: Policy) -> None:
        one = random_sets(9, 1, excluded=False)
        n = 20_000
        size = len(one.actions)
        sets = ActionSets(
            np.arange(n + 1) * size,
            np.tile(one.actions, n),
            np.tile(one.features, (n, 1)),  # type: ignore[arg-type]
            np.tile(one.scores, n),  # type: ignore[arg-type]
        )
        policy = dataclasses.replace(taught, floor=0.3) if taught.floor == 0 else taught
        if policy is not taught:
            policy.update(random_outcomes(1, 300))
        choices = policy.choose(sets, event_seeds(n), Run(threads=2))
        chosen = np.bincount(choices.rows % size, minlength=size)
        expected = choices.probabilities.reshape(n, size).sum(axis=0)
        variance = (choices.probabilities * (1 - choices.probabilities)).reshape(n, size).sum(axis=0)
        assert (np.abs(chosen - expected) <= 4.5 * np.sqrt(variance) + 1e-9).all()
        weights = 1 / choices.propensities
        assert abs(weights.mean() - size) <= 4.5 * weights.std() / np.sqrt(n) + 1e-9

    def test_the_same_event_id_gives_the_same_decision(self, taught: Policy) -> None:
        sets = random_sets(10, 100)
        first, again = (taught.choose(sets, event_seeds(100)) for _ in range(2))
        assert (first.rows == again.rows).all()
        assert (first.probabilities == again.probabilities).all()

    def test_a_decision_does_not_depend_on_its_batch_or_threads(self, taught: Policy) -> None:
        sets, seeds = random_sets(11, 60), event_seeds(60)
        whole = taught.choose(sets, seeds, Run(threads=2))
        for decision in (0, 17, 59):
            part, rows = sets.take(np.array([decision]))
            alone = taught.choose(part, seeds[[decision]])
            assert rows[alone.rows[0]] == whole.rows[decision]
            assert (alone.probabilities == whole.probabilities[rows]).all()

    def test_one_action_has_probability_1(self, taught: Policy) -> None:
        sets = ActionSets.single([7, 8], np.zeros((2, N_FEATURES)), [0.0, 0.0], [True, False])
        choices = taught.choose(sets)
        assert (choices.rows, choices.propensities) == (1, 1.0)

    def test_before_the_first_outcome_and_for_new_actions_it_chooses(self, taught: Policy) -> None:
        sets = random_sets(12, 50)
        cold = dataclasses.replace(sets, actions=sets.actions + 10_000)
        for policy, some in ((self.make(), sets), (taught, cold)):
            choices = policy.choose(some, event_seeds(50))
            assert np.abs(sums(choices.probabilities, some) - 1).max() <= 1e-9

    def test_a_decision_without_actions_is_refused(self) -> None:
        with pytest.raises(DataError, match="no action"):
            ActionSets(np.array([0, 0]), np.zeros(0, np.int64))
        with pytest.raises(DataError, match="decision 1 has no action"):
            ActionSets(np.array([0, 1, 3]), np.arange(3), excluded=np.array([False, True, True]))

    def test_slates_hold_each_action_once_and_their_propensities(self, taught: Policy) -> None:
        sets, seeds = random_sets(13, 120), event_seeds(120)
        slates = taught.choose_slates(sets, 4, seeds)
        n_eligible = sums((~sets.excluded).astype(int), sets)  # type: ignore[operator]
        assert ((slates.rows >= 0).sum(axis=1) == np.minimum(n_eligible, 4)).all()
        for decision, rows in enumerate(slates.rows):
            rows = rows[rows >= 0]
            assert len(set(rows.tolist())) == len(rows)
            assert (sets.owners[rows] == decision).all()
            assert not sets.excluded[rows].any()  # type: ignore[index]
        filled = slates.rows >= 0
        assert (slates.propensities[filled] > 0).all()
        assert (slates.propensities[~filled] == 0).all()
        assert (slates.prefix_propensities[filled] == np.cumprod(slates.propensities, axis=1)[filled]).all()

    def test_slots_of_a_slate_are_drawn_by_their_propensities(self) -> None:
        """The mean of 1 / prefix propensity over slates of two slots is the number of slates there are."""
        policy = self.make(floor=0.6)
        policy.update(random_outcomes(1, 300))
        n, size = 20_000, 4
        rng = np.random.default_rng(14)
        features, scores = rng.normal(size=(size, N_FEATURES)) / 2, rng.random(size) / 4
        sets = ActionSets(
            np.arange(n + 1) * size, np.tile(np.arange(size), n), np.tile(features, (n, 1)), np.tile(scores, n)
        )
        weights = 1 / policy.choose_slates(sets, 2, event_seeds(n, "slate"), Run(threads=2)).prefix_propensities[:, 1]
        assert abs(weights.mean() - size * (size - 1)) <= 4.5 * weights.std() / np.sqrt(n)

    def test_learning_in_parts_gives_the_same_state(self) -> None:
        outcomes = random_outcomes(15, 200)
        whole, parts = self.make(), self.make()
        whole.update(outcomes)
        for start, stop in ((0, 1), (1, 120), (120, 200)):
            part = slice(start, stop)
            parts.update(Outcomes(outcomes.actions[part], outcomes.rewards[part], outcomes.features[part]))  # type: ignore
        assert whole.n_updates == parts.n_updates == 200
        assert whole.state().keys() == parts.state().keys()
        for name, value in whole.state().items():
            assert (value == parts.state()[name]).all()

    def test_saved_and_loaded_it_makes_the_same_decisions_and_learns_on(self, taught: Policy, tmp_path: Path) -> None:
        policy = self.make()
        policy.update(random_outcomes(1, 300))
        policy.save(tmp_path / "policy")
        loaded = load(tmp_path / "policy")
        sets, seeds = random_sets(16, 1000), event_seeds(1000)
        for outcomes in (None, random_outcomes(17, 40)):
            if outcomes is not None:
                policy.update(outcomes)
                loaded.update(outcomes)
            first, second = policy.choose(sets, seeds), loaded.choose(sets, seeds)
            assert (first.rows == second.rows).all()
            assert (first.probabilities == second.probabilities).all()
        self.make().save(tmp_path / "empty")
        assert load(tmp_path / "empty").n_updates == 0

    def test_a_policy_that_learned_of_keys_of_ids_is_loaded(self, tmp_path: Path) -> None:
        """Keys are hashes of 64 bits: two of them may lie further apart than an integer counts."""
        keys, others = action_keys(map(str, range(20))), random_outcomes(18, 200)
        outcomes = Outcomes(keys[others.actions % 20], others.rewards, others.features)
        policy = self.make()
        policy.update(outcomes)
        policy.save(tmp_path / "policy")
        state = load(tmp_path / "policy").state()
        for name, value in policy.state().items():
            assert (state[name] == value).all()

    def test_a_damaged_folder_is_named(self, tmp_path: Path) -> None:
        policy = self.make()
        policy.update(random_outcomes(1, 30))
        policy.save(tmp_path / "policy")
        for file in (tmp_path / "policy").iterdir():
            whole = file.read_bytes()
            file.write_bytes(whole[: len(whole) // 2])
            with pytest.raises(DataError, match="policy"):
                load(tmp_path / "policy")
            file.write_bytes(whole)
        load(tmp_path / "policy")
