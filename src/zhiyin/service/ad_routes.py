"""Handlers of ads and their campaigns."""

from __future__ import annotations

from typing import Any

from zhiyin.api import endpoints
from zhiyin.api.ad_requests import SELLERS_FIELDS, AdsRequest, CampaignSettings
from zhiyin.service.authentication import Access
from zhiyin.service.endpoint_dispatch import handles
from zhiyin.service.errors import RefusedError


@handles(endpoints.ADS)
async def ads(access: Access, body: AdsRequest) -> Any:
    if access.visitor is not None:
        wrong = next((name for name in SELLERS_FIELDS if name in body.model_fields_set), None)
        if wrong is not None:
            raise RefusedError(403, f"{wrong}: a page token may not say what ads cost", "leave it out, or ask from the "
                               "shop's server, with a key", field=wrong)  # fmt: skip
    ask = access.own(body)
    result = await access.work.do(access.tenant.ads.create, ask)
    await access.writes.do(access.tenant.ads.store_list, result)
    return result.body


@handles(endpoints.LIST_CAMPAIGNS)
async def list_campaigns(access: Access) -> Any:
    service = access.tenant.ads

    def work() -> dict[str, Any]:
        accounts = service.accounts.refresh()
        return {"campaigns": [service.campaign_json(one, accounts) for one in accounts.campaigns]}

    return await access.writes.do(work)


@handles(endpoints.GET_CAMPAIGN)
async def get_campaign(access: Access, key: str) -> Any:
    return await access.writes.do(access.tenant.ads.report, key)


@handles(endpoints.PUT_CAMPAIGN)
async def put_campaign(access: Access, key: str, body: CampaignSettings) -> Any:
    def write() -> int:
        view = access.live.serving
        settings = body.model_dump(exclude_defaults=True)
        return access.tenant.ads.campaigns.put(key, settings, None if view is None else access.live.view().answers)

    return {"id": key, "version": await access.writes.do(write)}


@handles(endpoints.DELETE_CAMPAIGN)
async def delete_campaign(access: Access, key: str) -> Any:
    await access.writes.do(access.tenant.ads.campaigns.delete, key)
    return {"id": key}
