"""Links of users as of now: those that the version in use has learned, overlaid by those of the store.

A link that was written counts in the very next answer, in whichever process. Nobody who was forgotten is named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from zhiyin.data.learned_links import LinkRows, link_columns
from zhiyin.service.version_view import View
from zhiyin.store.store import Store

# Links of a user that count in one answer: the strongest.
MAX_FRIENDS = 500
# Links of friends that are read for one answer to who may be known.
MAX_LINKS_READ = 50_000


@dataclasses.dataclass(frozen=True)
class SuggestedUser:
    """Somebody whom a user may know.

    Parameters
    ----------
    score: sum over the friends in common of 1 / ln(1 + links of the friend) (Adamic & Adar, Social Networks 2003, of
        links with a direction).
    common: friends in common. via: some of them, those with the fewest links first.
    """

    user: str
    score: float
    common: int
    via: tuple[str, ...]


class UserLinks:
    """Links of the users of one shop. Any number of threads may use it.

    Parameters
    ----------
    not_forgotten: of users whom the version has learned, whether each may still be named.
    """

    def __init__(self, store: Store, not_forgotten: Callable[[Sequence[str]], list[bool]]) -> None:
        self.store, self._not_forgotten = store, not_forgotten

    def exist(self, view: View | None) -> bool:
        """Whether there are, or have been, any links."""
        return (view is not None and view.loaded.links is not None) or self.store.last_link_change() > 0

    def links_from(self, view: View | None, user: str) -> dict[str, float]:
        """Weights of the links of a user by the other one, the strongest first."""
        learned = None if view is None or view.loaded.links is None else view.loaded.links.there
        return self._overlaid(view, user, learned, self.store.links_from(user))

    def links_to(self, view: View | None, user: str) -> dict[str, float]:
        """Weights of the links to a user by the other one, the strongest first."""
        learned = None if view is None or view.loaded.links is None else view.loaded.links.back
        return self._overlaid(view, user, learned, self.store.links_to(user))

    def suggested(self, view: View | None, user: str, k: int) -> list[SuggestedUser]:
        """Users whom the friends of a user are linked to and the user is not, the best first.

        Of equal scores the one with more friends in common comes first, then the one whose id comes first.
        """
        own = self.links_from(view, user)
        friends = list(own)[:MAX_FRIENDS]
        if not friends:
            return []
        links = self._links_of(view, friends)
        degrees = links.group_by("user").len()
        links = links.filter(~pl.col("other").is_in([user, *own])).join(degrees, on="user")
        scores = links.group_by("other").agg(
            score=(1 / (1 + pl.col("len")).log()).sum(),
            common=pl.len(),
            via=pl.col("user").sort_by("len", "user").head(3),
        )
        best = scores.sort("score", "common", "other", descending=[True, True, False]).head(k)
        return [
            SuggestedUser(other, score, common, tuple(via))
            for other, score, common, via in best.select("other", "score", "common", "via").iter_rows()
        ]

    def _overlaid(
        self, view: View | None, user: str, learned: LinkRows | None, stored: list[tuple[str, float | None]]
    ) -> dict[str, float]:
        weights: dict[str, float] = {}
        if view is not None and learned is not None:
            code = view.loaded.learned_user_code(user, self.store.forgotten_at(user))
            others, values = learned.of_user(code)
            ids = list(map(str, view.context.user_ids.raw(others)))
            present = self._not_forgotten(ids) if ids else []
            weights = {other: value for other, value, is_named in zip(ids, values.tolist(), present) if is_named}
        for other, weight in stored:
            if weight is None:
                weights.pop(other, None)
            else:
                weights[other] = weight
        return dict(sorted(weights.items(), key=lambda link: (-link[1], link[0])))

    def _links_of(self, view: View | None, users: list[str]) -> pl.DataFrame:
        """Frame user, other: the links of several users, at most MAX_LINKS_READ from each of version and store."""
        stored = self.store.links_of(users, MAX_LINKS_READ)
        present = stored.filter(pl.col("weight").is_not_null()).select("user", "other")
        if view is None or view.loaded.links is None:
            return present
        codes = view.context.user_ids.encode(users)
        named = np.array(self._not_forgotten(users), dtype=bool)
        row_of = np.flatnonzero((codes >= 0) & named)
        positions, others, _ = view.loaded.links.there.of_users(codes[row_of])
        positions, others = positions[:MAX_LINKS_READ], others[:MAX_LINKS_READ]
        learned = pl.DataFrame({
            "user": pl.Series(users, dtype=pl.String)[row_of[positions]],
            "other": pl.Series(map(str, view.context.user_ids.raw(others)), dtype=pl.String),
        })  # fmt: skip
        distinct = learned["other"].unique()
        forgotten = distinct.filter(~pl.Series(self._not_forgotten(distinct.to_list()), dtype=pl.Boolean))
        learned = learned.filter(~pl.col("other").is_in(forgotten.implode()))
        return pl.concat([learned.join(stored, on=["user", "other"], how="anti"), present])


def friend_columns(links: UserLinks, view: View | None, user: str) -> dict[str, Any]:
    """What expressions and models know of a user's links, as columns of the user; see `data.learned_links`.

    Only the strongest MAX_FRIENDS in each direction are among them.
    """
    friends = dict(list(links.links_from(view, user).items())[:MAX_FRIENDS])
    followers = dict(list(links.links_to(view, user).items())[:MAX_FRIENDS])
    return link_columns(friends, followers)
