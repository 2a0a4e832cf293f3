"""Friends: social recommendations by a random walk on links between users, blended with another model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy import sparse

from zhiyin.core.errors import ConfigError
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids
from zhiyin.data.learned_links import FOLLOWER_WEIGHTS, FOLLOWERS, FRIEND_WEIGHTS, FRIENDS
from zhiyin.models.item_to_item import keep_largest, score_by_table, to_csr
from zhiyin.models.loading import load as load_model
from zhiyin.models.recommender import Recommender, has_positive_event
from zhiyin.models.registry import parse
from zhiyin.models.saving import write as write_model


@dataclasses.dataclass
class Friends(Recommender):
    """Items of friends, and of their friends, blended with the scores of another model.

    From `Dataset.links`, with w(u, v) the weight of the link from u to v (0 for none), X the binary users × items
    matrix and N(u) the people u has a tie with:

    - tie(u, v) = a · (1 + shared · cos(X_u, X_v) + common · |N(u) ∩ N(v)| / sqrt(|N(u)| |N(v)|)), where
      a = w(u, v) + followers · w(v, u);
    - reach(u, ·) is where a random walk with restart over the ties, begun at u, stands after `walk` steps (Tong,
      Faloutsos & Pan, ICDM 2006): p ← restart · e_u + (1 - restart) · p T, T the ties with rows that sum to 1. Each
      step keeps the `k_neighbors` likeliest people; u is left out and the rest made to sum to 1;
    - friends(u, i) = sum over v of reach(u, v) X_vi / (people who had i)^popularity;
    - own(u, i) = the score of the model `base` for the history, nothing for a history without a positive event;
    - score = alpha · own / max own + (1 - alpha) · friends / max friends, the maxima over items not in the history.
      Where one part has no positive score, the other counts alone.

    Links are a feature of the user outside of the history: they are learned from the training data and looked up by
    `Histories.users`. Where `Histories.features` has the columns of `data.learned_links.link_columns`, as of a user of
    the service, these are the user's links as of now, and the first step of the walk goes along them. A user without
    events but with friends gets the items of the friends, one with neither gets
    popular items. Links do not affect item similarities.

    People as items: with `people`, users are recommended to users, and nobody to themselves. On a log of who follows
    whom (user, item = the one followed) the links may be left out, as the log has them; alpha = 0 and walk = 1 then
    count common friends, weighted by tie. A person who follows nobody is no user of such a log unless it is given as
    `links` too.
    """

    scores_empty_histories: ClassVar[bool] = True
    reads_links: ClassVar[bool] = True
    _parts: ClassVar[tuple[str, ...]] = ("base_",)
    # CSR float32[n_users, n_users], rows sum to 1; None: of a model that was saved before links could change.
    ties_: ClassVar[sparse.csr_matrix | None] = None

    base: str = param("als", "model of the user's own taste, such as als:factors=128, ease or itemknn")
    alpha: float = param(0.8, "weight of the own taste; 0: friends alone", at_least=0, at_most=1, tune=(0.0, 1.0))
    shared: float = param(10.0, "weight of shared items in the strength of a link", at_least=0, tune=(0.0, 100.0))
    common: float = param(3.0, "weight of common friends in the strength of a link", at_least=0, tune=(0.0, 10.0))
    followers: float = param(
        0.5,
        "weight of a link in its opposite direction; 0: links have one direction",
        at_least=0,
        at_most=1,
        tune=(0.0, 1.0),
    )
    walk: int = param(1, "steps of the walk; 1: friends, 2: also their friends", at_least=1, at_most=10, tune=(1, 3))
    restart: float = param(
        0.5, "restart probability of the walk; higher prefers nearer people", at_least=0, at_most=0.99, tune=(0.1, 0.9)
    )
    k_neighbors: int = param(100, "linked users kept for each user", at_least=1, tune=(20, 500), log=True)
    popularity: float = param(
        0.3,
        "power of an item's popularity that its score among friends is divided by",
        at_least=0,
        at_most=1,
        tune=(0.0, 0.7),
    )
    people: bool = param(False, "items are users: nobody is recommended to themselves")

    def _fit(self, data: Dataset, run: Run) -> None:
        links = self._links(data)
        user_items = data.matrix("binary")
        ties = _ties(links, user_items, self.followers, self.shared, self.common, run)
        self.base_ = parse(self.base).fit(data, run)
        item_weights = np.maximum(np.bincount(user_items.indices, minlength=data.n_items), 1) ** -float(self.popularity)
        self.ties_ = ties  # type: ignore[misc]
        self.reach_ = _reach(ties, self.walk, self.restart, self.k_neighbors, run)
        self.had_ = sparse.csr_matrix(
            (
                user_items.data * item_weights[user_items.indices].astype(np.float32),
                user_items.indices,
                user_items.indptr,
            ),
            user_items.shape,
        )
        self.self_ = data.item_ids.encode(data.user_ids.values) if self.people else np.zeros(0, np.int32)

    def _links(self, data: Dataset) -> sparse.csr_matrix:
        """CSR float32[n_users, n_users]."""
        frame, n = data.links, data.n_users
        if frame is not None:
            pairs = frame["user"].to_numpy(), frame["other"].to_numpy()
            return sparse.csr_matrix((frame["weight"].to_numpy(), pairs), shape=(n, n), dtype=np.float32)
        if not self.people:
            raise ConfigError(
                "Friends needs to know who follows or befriends whom, and the data has no links",
                remedy='zy.read(..., links="friends.csv"), or links = "friends.csv" under [data] in zhiyin.toml',
            )
        follows = data.matrix("binary").tocoo()
        other = data.user_ids.encode(data.item_ids.values)[follows.col]
        mask = (other >= 0) & (other != follows.row)
        pairs = follows.row[mask], other[mask]
        return sparse.csr_matrix((follows.data[mask], pairs), shape=(n, n), dtype=np.float32)

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        n_users = self.had_.shape[0]
        # Codes beyond the training data are unknown users.
        in_training = (histories.users >= 0) & (histories.users < n_users)
        user_codes = np.where(in_training, histories.users, 0)
        rows = self.reach_[user_codes]
        rows.data[~np.repeat(in_training, np.diff(rows.indptr))] = 0
        rows = self._with_links_of_now(rows, histories, user_codes, in_training)
        friends = score_by_table(rows, self.had_, run)
        scores = self.base_.score(histories, run)
        scores[~has_positive_event(histories)] = 0
        offsets, items = histories.offsets, np.asarray(histories.items)
        itself = (
            np.where(in_training, self.self_[user_codes], -1)
            if len(self.self_)
            else np.full(len(user_codes), -1, np.int32)
        )
        popular, alpha = np.asarray(self.context_.popularity), np.float32(self.alpha)

        def work(start: int, stop: int) -> None:
            _blend(scores, friends, offsets, items, itself, alpha, popular, start, stop)

        for_chunks(work, len(scores), run)
        return scores

    def _with_links_of_now(
        self, rows: sparse.csr_matrix, histories: Histories, user_codes: np.ndarray, in_training: np.ndarray
    ) -> sparse.csr_matrix:
        """The rows of reach, where links of now that `Histories.features` has replace those of the training data."""
        features, ties = histories.features, self.ties_
        if features is None or ties is None or FRIENDS not in features.columns:
            return rows
        current = np.flatnonzero(features[FRIENDS].is_not_null().to_numpy())
        live = [
            self._reach_of_now(ties, histories, int(at), int(user_codes[at]) if in_training[at] else -1)
            for at in current
        ]
        rows.data[np.isin(np.repeat(np.arange(len(in_training)), np.diff(rows.indptr)), current)] = 0
        if not live:
            return rows
        owner = np.repeat(current, [len(people) for people, _ in live])
        people, mass = (np.concatenate(parts) for parts in zip(*live))
        return rows + sparse.csr_matrix((mass, (owner, people)), shape=rows.shape, dtype=np.float32)

    def _reach_of_now(
        self, ties: sparse.csr_matrix, histories: Histories, at: int, user: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """People and mass of a user's walk, by their links of now. user: code of the training data, or -1."""
        links = _links_of_now(histories, at, self._context().user_ids, self.followers)
        people = np.array(sorted(code for code, weight in links.items() if weight > 0 and code != user), np.int32)
        weights = np.array([links[code] for code in people.tolist()], np.float32)
        items = histories.rows(at, at + 1).entries(self.had_.shape[1]).indices.astype(self.had_.indices.dtype)
        _weigh_ties(
            people.astype(ties.indices.dtype), weights, items, ties.indptr, ties.indices, self.had_.indptr,
            self.had_.indices, np.float32(self.shared), np.float32(self.common),
        )  # fmt: skip
        n = ties.shape[0]
        k = min(self.k_neighbors, max(1, n - 1)) + 1
        reached, mass = np.full(k, -1, np.int32), np.zeros(k, np.float32)
        _walk(
            user, people.astype(ties.indices.dtype), weights, ties.indptr, ties.indices, ties.data, self.walk,
            np.float32(self.restart), np.zeros(n + 1, np.float32), np.empty(n + 1, np.int32), reached, mass,
        )  # fmt: skip
        return reached[reached >= 0], mass[reached >= 0]

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        return self.base_._similar(items, run)

    def _similar_to_item(self, item: int, k: int, run: Run) -> tuple[np.ndarray, np.ndarray]:
        return self.base_._similar_to_item(item, k, run)

    def _write_parts(self, folder: Path) -> None:
        place = folder / "base"
        place.mkdir()
        write_model(self.base_, place, self._context())

    def _read_parts(self, folder: Path, mmap: bool) -> None:
        self.base_ = load_model(folder / "base", mmap=mmap, parent=self._context())


def _ties(
    links: sparse.csr_matrix, user_items: sparse.csr_matrix, followers: float, shared: float, common: float, run: Run
) -> sparse.csr_matrix:
    """CSR float32[n, n] of ties; rows sum to 1 or are empty; see `Friends`."""
    ties = links + links.T.tocsr() * np.float32(followers) if followers else links.copy()
    ties = ties.tocsr()
    ties.sort_indices()
    user_items.sort_indices()
    weight = ties.data.astype(np.float32)

    def work(start: int, stop: int) -> None:
        _tie_weights(
            ties.indptr, ties.indices, user_items.indptr, user_items.indices,
            np.float32(shared), np.float32(common), start, stop, weight,
        )  # fmt: skip

    for_chunks(work, len(ties.indptr) - 1, run, label="Friends: ties")
    return sparse.csr_matrix((weight, ties.indices, ties.indptr), shape=ties.shape)


def _links_of_now(histories: Histories, at: int, ids: Ids, followers: float) -> dict[int, float]:
    """a(u, v) by the code of v, of the user of one history; see `Friends`."""
    features = histories.features
    assert features is not None
    row = features.row(at, named=True)
    weights: dict[int, float] = {}
    for name, weight_name, factor in ((FRIENDS, FRIEND_WEIGHTS, 1.0), (FOLLOWERS, FOLLOWER_WEIGHTS, followers)):
        others = row.get(name) or []
        values = row.get(weight_name) or [1.0] * len(others)
        for code, value in zip(ids.encode(others).tolist() if others else [], values):
            if code >= 0 and factor > 0:
                weights[code] = weights.get(code, 0.0) + factor * value
    return weights


def _reach(ties: sparse.csr_matrix, steps: int, restart: float, k: int, run: Run) -> sparse.csr_matrix:
    """CSR float32[n, n] of reach; rows sum to 1 or are empty; see `Friends`."""
    n = ties.shape[0]
    k = min(k, max(1, n - 1)) + 1  # one more for the user, who is left out at the end
    people = np.full((n, k), -1, dtype=np.int32)
    mass = np.zeros((n, k), dtype=np.float32)

    def work(start: int, stop: int) -> None:
        _random_walk(ties.indptr, ties.indices, ties.data, steps, np.float32(restart), start, stop, people, mass)

    for_chunks(work, n, run, label="Friends: walks")
    return to_csr(people, mass, n)


@kernel
def _overlap(one, other):
    """Size of the intersection of two sorted arrays, by binary search of the shorter in the longer."""
    if len(one) > len(other):
        one, other = other, one
    count, begin = 0, 0
    for at in range(len(one)):
        begin += np.searchsorted(other[begin:], one[at])
        if begin == len(other):
            break
        count += other[begin] == one[at]
    return count


@kernel
def _tie_weights(indptr, others, h_indptr, h_items, shared, common, start, stop, weight):
    for user in range(start, stop):
        first, last = indptr[user], indptr[user + 1]
        items = h_items[h_indptr[user] : h_indptr[user + 1]]
        _weigh_ties(others[first:last], weight[first:last], items, indptr, others, h_indptr, h_items, shared, common)


@kernel
def _weigh_ties(own, weight, own_items, indptr, others, h_indptr, h_items, shared, common):
    """Turn the links of one user into ties, in place.

    own: the people, ascending. weight: float32, a of each. own_items: items of the user, ascending.
    """
    total = np.float32(0)
    for at in range(len(own)):
        other = own[at]
        o_first, o_last = indptr[other], indptr[other + 1]
        i_first, i_last = h_indptr[other], h_indptr[other + 1]
        factor = np.float32(1)
        if shared > 0 and len(own_items) > 0 and i_last > i_first:
            both = _overlap(own_items, h_items[i_first:i_last])
            factor += shared * np.float32(both / np.sqrt(float(len(own_items)) * float(i_last - i_first)))
        if common > 0 and o_last > o_first:
            both = _overlap(own, others[o_first:o_last])
            factor += common * np.float32(both / np.sqrt(float(len(own)) * float(o_last - o_first)))
        weight[at] *= factor
        total += weight[at]
    for at in range(len(own)):
        weight[at] /= total


@kernel
def _random_walk(indptr, others, share, steps, restart, start, stop, people, mass):
    n = len(indptr) - 1
    total = np.zeros(n + 1, dtype=np.float32)
    touched = np.empty(n + 1, dtype=np.int32)
    for user in range(start, stop):
        own = slice(indptr[user], indptr[user + 1])
        _walk(
            user, others[own], share[own], indptr, others, share, steps, restart, total, touched,
            people[user], mass[user],
        )  # fmt: skip


@kernel
def _walk(user, own, own_share, indptr, others, share, steps, restart, total, touched, people, mass):
    """Where the walk of one user stands: each step spreads the mass of people along their ties into an accumulator, of
    which the k largest are kept.

    user: code, or -1 for one of no code, whose mass has the last place of the accumulator. own, own_share: ties of the
    user. total: float32[n + 1] of zeros, touched: int32[n + 1]; both are work space. people: int32[k] of -1, mass:
    float32[k] of zeros; filled.
    """
    k, me = len(people), user if user >= 0 else len(total) - 1
    people_now, masses = np.empty(k, dtype=np.int32), np.empty(k, dtype=np.float32)
    people_now[0], masses[0], size = me, np.float32(1), 1
    for _ in range(steps):
        n_touched = 0
        if restart > 0:
            total[me] = restart
            touched[0], n_touched = me, 1
        for place in range(size):
            person, left = people_now[place], (1 - restart) * masses[place]
            is_own = person == me
            first = 0 if is_own else indptr[person]
            last = len(own) if is_own else indptr[person + 1]
            for at in range(first, last):
                other = own[at] if is_own else others[at]
                gain = left * (own_share[at] if is_own else share[at])
                if gain <= 0:
                    continue
                if total[other] == 0:
                    touched[n_touched] = other
                    n_touched += 1
                total[other] += gain
        people_now[:] = -1
        masses[:] = 0
        keep_largest(total, touched, n_touched, people_now, masses)
        size = 0
        for place in range(k):
            if people_now[place] >= 0:
                people_now[size], masses[size] = people_now[place], masses[place]
                size += 1
    # Remove the user, or else the smallest entry if all k places are taken.
    size_out, worst, user_removed = 0, -1, False
    for place in range(size):
        if people_now[place] == me:
            user_removed = True
            continue
        people[size_out], mass[size_out] = people_now[place], masses[place]
        if (
            worst < 0
            or masses[place] < mass[worst]
            or (masses[place] == mass[worst] and people_now[place] > people[worst])
        ):
            worst = size_out
        size_out += 1
    if size_out == k and not user_removed:
        size_out -= 1
        people[worst], mass[worst] = people[size_out], mass[size_out]
        people[size_out], mass[size_out] = -1, np.float32(0)
    whole = np.float32(0)
    for place in range(size_out):
        whole += mass[place]
    for place in range(size_out):
        mass[place] /= whole


@kernel
def _blend(own, friends, offsets, items, itself, alpha, popular, start, stop):
    """Blend the two scores into `own`, each scaled so that the best item not in the history has 1.

    itself: int32[n], the item that the user is, -1 for none; it gets minus infinity.
    """
    seen = np.zeros(own.shape[1], dtype=np.bool_)
    for row in range(start, stop):
        history_items = items[offsets[row] : offsets[row + 1]]
        for item in history_items:
            seen[item] = True
        if itself[row] >= 0:
            seen[itself[row]] = True
        # Items of the history set the scale only when no other does.
        new_own = new_friends = any_own = any_friends = np.float32(0)
        for item in range(own.shape[1]):
            any_own = max(any_own, own[row, item])
            any_friends = max(any_friends, friends[row, item])
            if not seen[item]:
                new_own = max(new_own, own[row, item])
                new_friends = max(new_friends, friends[row, item])
        for item in history_items:
            seen[item] = False
        if itself[row] >= 0:
            seen[itself[row]] = False
        top_own = new_own if new_own > 0 else any_own
        top_friends = new_friends if new_friends > 0 else any_friends
        if top_own <= 0 and top_friends <= 0:
            own[row] = popular
        else:
            a = alpha if top_own > 0 and top_friends > 0 else np.float32(top_own > 0)
            for item in range(own.shape[1]):
                score = np.float32(0)
                if a > 0:
                    score += a * own[row, item] / top_own
                if a < 1:
                    score += (1 - a) * friends[row, item] / top_friends
                own[row, item] = score
        if itself[row] >= 0:
            own[row, itself[row]] = -np.inf
