"""Calls for ads and their campaigns. Money is whole micros: 1,000,000 are one unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from zhiyin.api import endpoints
from zhiyin.client.api_call import Call, as_object, endpoint_call, present_fields
from zhiyin.client.api_types import Columns


def ads(
    *,
    user: str | None = None,
    session: str | None = None,
    history: Sequence[str] | None = None,
    slots: int | None = None,
    placement: str | None = None,
    filter: str | None = None,
    exclude: Sequence[str] | None = None,
    context: Columns | None = None,
    user_columns: Columns | None = None,
    fields: Sequence[str] | None = None,
    bids: Mapping[str, int] | None = None,
    reserve_micros: int | None = None,
    quality_floor: float | None = None,
    pricing: Literal["second", "first"] | None = None,
    per_campaign: int | None = None,
) -> Call[dict[str, Any]]:
    """Ads for a user, a session or a stranger: {"list_id", "ads": [{"item", "campaign", "price_micros", ...}], ...}.

    A click is an event of kind click that names the list: `client.event("alice", item, kind="click", list_id=...)`.

    Parameters
    ----------
    slots: how many.
    bids: micros by item, for this request.
    reserve_micros: the least price. quality_floor: the least probability. per_campaign: ads of one campaign at most.
    """
    request = present_fields(
        user=user, session=session, history=history, slots=slots, placement=placement, filter=filter, exclude=exclude,
        context=context, user_columns=user_columns, fields=fields, bids=None if bids is None else dict(bids),
        reserve_micros=reserve_micros, quality_floor=quality_floor, pricing=pricing, per_campaign=per_campaign,
    )  # fmt: skip
    return endpoint_call(endpoints.ADS, read=as_object, body=request)


def list_campaigns() -> Call[list[dict[str, Any]]]:
    """All campaigns: {"id", "version", "settings", "state", "issue"} each."""
    return endpoint_call(endpoints.LIST_CAMPAIGNS, read=lambda body: list(body["campaigns"]))


def get_campaign(id: str) -> Call[dict[str, Any]]:
    """One campaign with its displays, clicks, spend and pace, up to this moment."""
    return endpoint_call(endpoints.GET_CAMPAIGN, id, read=as_object)


def put_campaign(id: str, settings: Columns) -> Call[dict[str, Any]]:
    """Begin or change a campaign."""
    return endpoint_call(endpoints.PUT_CAMPAIGN, id, read=as_object, body=settings)


def delete_campaign(id: str) -> Call[dict[str, Any]]:
    """Remove a campaign; later clicks on its ads cost nothing."""
    return endpoint_call(endpoints.DELETE_CAMPAIGN, id, read=as_object)
