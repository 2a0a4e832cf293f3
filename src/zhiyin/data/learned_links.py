"""The links that a version has learned, by user, in both directions: saved beside its catalogue."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.data.ids import Ids

_FILES = ("links.arrow", "links_back.arrow")
# Columns that a user has by links: whom they are linked to, who is linked to them, and how much each.
FRIENDS, FOLLOWERS = "friends", "followers"
FRIEND_WEIGHTS, FOLLOWER_WEIGHTS = "friend_weights", "follower_weights"
LINK_KINDS = {FRIENDS: "texts", FOLLOWERS: "texts", FRIEND_WEIGHTS: "numbers", FOLLOWER_WEIGHTS: "numbers"}


def link_columns(friends: Mapping[str, float], followers: Mapping[str, float]) -> dict[str, list[Any]]:
    """The columns of a user with these links, by the other's id; weights are left out where all are 1."""
    columns: dict[str, list[Any]] = {FRIENDS: list(friends), FOLLOWERS: list(followers)}
    for name, weights in ((FRIEND_WEIGHTS, friends), (FOLLOWER_WEIGHTS, followers)):
        if any(weight != 1 for weight in weights.values()):
            columns[name] = list(weights.values())
    return columns


@dataclasses.dataclass(frozen=True)
class LinkRows:
    """Links of each user code in one direction.

    Parameters
    ----------
    offsets: int64[users + 1]; links of user u are offsets[u]:offsets[u + 1].
    others: int32, codes of the other users, ascending in each row. weights: float32, above 0.
    """

    offsets: np.ndarray
    others: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, frame: pl.DataFrame, n_users: int, by: str, other: str) -> LinkRows:
        """Of a frame of codes that is sorted by the column `by`, then by `other`."""
        counts = np.bincount(frame[by].to_numpy(), minlength=n_users)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(offsets, frame[other].to_numpy(), frame["weight"].to_numpy())

    def of_user(self, code: int) -> tuple[np.ndarray, np.ndarray]:
        """Other users and weights; nothing for a code below 0."""
        row = slice(*self.offsets[code : code + 2].tolist()) if 0 <= code < len(self.offsets) - 1 else slice(0)
        return self.others[row], self.weights[row]

    def of_users(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions in `codes`, other users, and weights of all links of these users."""
        starts, stops = self.offsets[codes], self.offsets[codes + 1]
        lengths = stops - starts
        ends = np.cumsum(lengths)
        rows = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
        return np.repeat(np.arange(len(codes)), lengths), self.others[rows], self.weights[rows]


@dataclasses.dataclass(frozen=True)
class LearnedLinks:
    """Links between the users of a version.

    Parameters
    ----------
    ids: of the users, by code. there: links of a user to others; back: links of others to a user.
    """

    ids: Ids
    there: LinkRows
    back: LinkRows

    @classmethod
    def of(cls, links: pl.DataFrame, ids: Ids) -> LearnedLinks:
        """Of `Dataset.links`."""
        return cls(
            ids,
            LinkRows.of(links.sort("user", "other"), len(ids), "user", "other"),
            LinkRows.of(links.sort("other", "user"), len(ids), "other", "user"),
        )

    @staticmethod
    def save(links: pl.DataFrame, folder: Path) -> None:
        """Write `Dataset.links` into a folder."""
        for name, order in zip(_FILES, (("user", "other"), ("other", "user"))):
            links.sort(*order).write_ipc(folder / name)

    @classmethod
    def load(cls, folder: Path, ids: Ids) -> LearnedLinks | None:
        """What `save` wrote; None where there are no links."""
        if not (folder / _FILES[0]).is_file():
            return None
        there, back = (pl.read_ipc(folder / name) for name in _FILES)
        return cls(ids, LinkRows.of(there, len(ids), "user", "other"), LinkRows.of(back, len(ids), "other", "user"))

    def frame(self) -> pl.DataFrame:
        """As `Dataset.links`."""
        there = self.there
        users = np.repeat(np.arange(len(there.offsets) - 1, dtype=np.int32), np.diff(there.offsets))
        return pl.DataFrame({"user": users, "other": there.others, "weight": there.weights})

    def friends(self, code: int) -> dict[str, float]:
        """Weights of the links of a user, by raw id."""
        others, weights = self.there.of_user(code)
        return dict(zip(map(str, self.ids.raw(others)), weights.tolist()))

    def columns_of(self, codes: np.ndarray) -> pl.DataFrame:
        """`link_columns` of many users, one row a code; null for codes below 0."""
        names = ((FRIENDS, FRIEND_WEIGHTS, self.there), (FOLLOWERS, FOLLOWER_WEIGHTS, self.back))
        known = np.where(codes < 0, 0, codes)
        columns: list[pl.Series] = []
        for name, weight_name, rows in names:
            positions, others, weights = rows.of_users(known)
            raw = self.ids.decode(others).cast(pl.String)
            frame = pl.DataFrame({"row": positions, name: raw, weight_name: weights})
            lists = frame.group_by("row", maintain_order=True).agg(name, weight_name)
            joined = pl.DataFrame({"row": np.where(codes < 0, -1, np.arange(len(codes)))}).join(
                lists, on="row", how="left", maintain_order="left"
            )
            columns += [joined[name], joined[weight_name]]
        return pl.DataFrame(columns)

    def followers(self, code: int) -> dict[str, float]:
        """Weights of the links to a user, by raw id."""
        others, weights = self.back.of_user(code)
        return dict(zip(map(str, self.ids.raw(others)), weights.tolist()))
