"""What routes share: whose request it is, ids in addresses, answers written fast."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

from fastapi import Path, Query
from fastapi.responses import Response

from zhiyin.service.bodies import Filter, Id, K, Language, Text
from zhiyin.service.limits import Work
from zhiyin.service.tenant import Tenant as Shop

ItemId = Annotated[Id, Path()]
KQuery = Annotated[K, Query()]
FilterQuery = Annotated[Filter, Query()]
FieldsQuery = Annotated[Text, Query(max_length=5_000, description="columns, between commas")]
LanguageQuery = Annotated[Language, Query()]


class Tenant:
    """The shop that a request's key opens. work: the threads that make lists. admin: whether the key may do all."""

    def __init__(self, shop: Shop, work: Work, admin: bool) -> None:
        self.shop, self.work, self.admin = shop, work, admin
        self.live, self.store, self.writer, self.traces = shop.live, shop.store, shop.writer, shop.traces
        self.placements, self.desk = shop.placements, shop.desk


@dataclasses.dataclass(frozen=True)
class Needs:
    """Dependencies that let in keys of a scope."""

    read: Any
    events: Any
    admin: Any


def fast(said: Any, status: int = 200) -> Response:
    """An answer as JSON, past the checks that are for what others wrote."""
    return Response(json.dumps(said, separators=(",", ":")), status, media_type="application/json")


def names(fields: str) -> list[str]:
    """Columns of a query."""
    return [name.strip() for name in fields.split(",") if name.strip()][:50]
