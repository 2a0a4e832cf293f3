"""A line of the log for each request that is done."""

from __future__ import annotations

import logging

from zhiyin.service.log_format import access_log
from zhiyin.service.request_context import RequestRecord


def log_request(record: RequestRecord) -> None:
    if access_log.isEnabledFor(logging.INFO):
        fields = {"method": record.method, "route": record.route, "status": record.status,
                  "milliseconds": round(1e3 * record.seconds, 3), "request": record.id}  # fmt: skip
        if record.shop:
            fields["shop"] = record.shop
        access_log.info("request", extra={"zhiyin": fields})
