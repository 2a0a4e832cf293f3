"""The ads of campaigns as arrays, and which of them take part in the auction of a request, with what probability."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from zhiyin.api.ad_requests import MAX_MICROS, CampaignSettings
from zhiyin.core.errors import ConfigError, UnknownItemError
from zhiyin.data.histories import Histories
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.probabilities import has_probabilities
from zhiyin.ranking.asof import AsOf

MICROS = 1_000_000


class NoProbabilitiesError(ConfigError):
    """The version in use has no probabilities of what is paid for."""


class BidColumnError(ConfigError):
    """A column of bids that is none of the catalogue, or holds no numbers."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ads:
    """m ads of c campaigns over one catalogue.

    Parameters
    ----------
    names: of the campaigns.
    campaigns: int32[m], codes of the campaigns; -1: of none.
    items: int32[m], codes of the items. bids: int64[m], micros.
    purchases: bool[m], whether a purchase is paid for, and not a click.
    missing: by campaign, items that the catalogue does not have.
    """

    names: tuple[str, ...]
    campaigns: np.ndarray
    items: np.ndarray
    bids: np.ndarray
    purchases: np.ndarray
    missing: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def of(cls, campaigns: Mapping[str, CampaignSettings], answers: Answers) -> Ads:
        """The ads of campaigns, by name, whose items the catalogue has."""
        parts, missing = [], {}
        for number, (name, settings) in enumerate(campaigns.items()):
            codes = answers.ids.encode(list(settings.items)).astype(np.int32)
            unknown = [item for item, code in zip(settings.items, codes.tolist()) if code < 0]
            if unknown:
                missing[name] = unknown
            codes = codes[codes >= 0]
            bids = _bids(answers.items, codes, settings)
            parts.append(
                (np.full(len(codes), number, np.int32), codes, bids, np.full(len(codes), settings.pay == "purchase"))
            )
        none = (np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, bool))
        numbers, items, bids, purchases = map(np.concatenate, zip(*parts, none, strict=True))
        return cls(tuple(campaigns), numbers, items, bids, purchases, missing)

    def with_bids(self, bids: Mapping[str, int], answers: Answers) -> Ads:
        """With the bids of a request, micros by item. Raises UnknownItemError for an item that is not known.

        An item of no campaign becomes an ad of its own.
        """
        if not bids:
            return self
        codes = answers.ids.encode(list(bids))
        if (codes < 0).any():
            unknown = next(item for item, code in zip(bids, codes.tolist()) if code < 0)
            raise UnknownItemError(
                f"bids: item {unknown[:80]!r} is not known", column="bids", remedy="put it into the catalogue"
            )
        order = np.argsort(codes)
        sorted_codes, values = codes[order], np.array(list(bids.values()), np.int64)[order]
        place = np.minimum(np.searchsorted(sorted_codes, self.items), len(codes) - 1)
        own = np.where(sorted_codes[place] == self.items, values[place], self.bids)
        new = ~np.isin(sorted_codes, self.items)
        n_new = int(new.sum())
        return dataclasses.replace(
            self,
            campaigns=np.concatenate([self.campaigns, np.full(n_new, -1, np.int32)]),
            items=np.concatenate([self.items, sorted_codes[new].astype(np.int32)]),
            bids=np.concatenate([own, values[new]]),
            purchases=np.concatenate([self.purchases, np.zeros(n_new, bool)]),
        )


def _bids(items: pl.DataFrame, codes: np.ndarray, settings: CampaignSettings) -> np.ndarray:
    """int64[m], micros: of the column of bids, and the campaign's own where an item has none.

    Raises ConfigError where there is no such column, or it holds no numbers.
    """
    bids = np.full(len(codes), settings.bid_micros, np.int64)
    name = settings.bid_column
    if name is None:
        return bids
    if name not in items.columns or not items[name].dtype.is_numeric():
        what = "holds no numbers" if name in items.columns else "is no column of the catalogue"
        raise BidColumnError(
            f"bid_column: {name!r} {what}", column="bid_column", remedy="a column of amounts, or leave it out"
        )
    column = items[name].gather(codes).cast(pl.Float64).fill_null(np.nan).to_numpy()
    known = np.isfinite(column) & (column >= 0)
    bids[known] = np.rint(np.minimum(column[known] * MICROS, MAX_MICROS)).astype(np.int64)
    return bids


def eligible_ads(ads: Ads, items: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """bool[m]: ads whose item a request may get.

    Parameters
    ----------
    items: bool[n_items]. excluded: codes that it must not get.
    """
    allowed = items[ads.items]
    if len(excluded):
        allowed &= ~np.isin(ads.items, excluded)
    return np.asarray(allowed)


def check_probabilities(model: Pipeline) -> None:
    """Raises ConfigError for a version whose scores are no probabilities: a bid cannot be multiplied by them."""
    if not has_probabilities(model):
        what = f"the version in use was trained for {model.goal_}: its scores are no probabilities to multiply bids by"
        raise NoProbabilitiesError(f"ads: {what}", remedy="zhiyin train --goal ctr")


def action_probabilities(
    answers: Answers,
    history: Histories,
    ads: Ads,
    index: AsOf | None,
    mean: float,
) -> np.ndarray:
    """float64[m]: the probability of what each ad is paid for, a click or a purchase.

    A new item has that of the most similar item that the model knows, and `mean` where there is none. Raises
    ConfigError where the version has no probabilities of purchases, and an ad is paid for by them.
    """
    model = answers.model
    check_probabilities(model)
    known = answers.nearest_known_items(ads.items)
    distinct, places = np.unique(known[known >= 0], return_inverse=True)
    result = np.full(len(ads), mean)
    if not len(distinct):
        return result
    offsets = np.array([0, len(distinct)], np.int64)
    by_action = model.probabilities(history, offsets, distinct.astype(np.int32), index=index)
    rows = np.flatnonzero(known >= 0)
    for action, goal, is_paid in (("click", "ctr", ~ads.purchases[rows]), ("purchase", "cvr", ads.purchases[rows])):
        if not is_paid.any():
            continue
        if action not in by_action:
            raise NoProbabilitiesError(
                f"ads: the version in use does not know the probability of a {action}, which campaigns pay for",
                remedy=f"zhiyin train --goal {goal}, or another pay in the campaigns",
            )
        result[rows[is_paid]] = np.asarray(by_action[action], np.float64)[places[is_paid]]
    return np.clip(np.nan_to_num(result, nan=0.0), 0.0, 1.0)


def sampled_probabilities(
    probabilities: np.ndarray, expected: np.ndarray, events: np.ndarray, prior: float, seed: int
) -> np.ndarray:
    """Thompson sampling of probabilities: p times a draw of how often an ad's events came, relative to expectation.

        lift ~ Gamma(prior + events) / (prior + expected)

    which is the posterior of a Gamma-Poisson model whose prior has the mean 1 and the weight of `prior` events (as in
    Agarwal, Chen and Elango, Spatio-temporal models for estimating click-through rate, WWW 2009). The variance, and
    with it what is explored, goes as the ad is displayed.

    Parameters
    ----------
    probabilities: float64[m], of the model.
    expected, events: float64[m], the events of each ad that the model expected, and those that came.
    """
    rng = np.random.default_rng(seed)
    lift = rng.standard_gamma(prior + events) / (prior + expected)
    return np.asarray(np.clip(probabilities * lift, 0.0, 1.0))
