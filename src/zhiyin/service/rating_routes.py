"""Handler of predicted ratings."""

from __future__ import annotations

from typing import Any

import numpy as np

from zhiyin.api import endpoints
from zhiyin.api.rating_requests import PredictRequest
from zhiyin.core.run import Run
from zhiyin.pipeline.rating_predictions import REMEDY, predict_ratings, visitor_history
from zhiyin.service.authentication import Access
from zhiyin.service.endpoint_dispatch import handles
from zhiyin.service.errors import RefusedError


@handles(endpoints.PREDICT)
async def predict(access: Access, body: PredictRequest) -> Any:
    # A page token's visitor who sends ratings is asked about those, not about the user of the token.
    ask = access.own(body, personal=body.ratings is None)

    def work() -> dict[str, Any]:
        view, now = access.live.view(), access.store.clock()
        model = view.loaded.model.rating_model
        if model is None:
            raise RefusedError(409, f"version {view.version}, which is in use, predicts no ratings", REMEDY)
        if ask.user is not None or ask.session is not None:
            history = access.live.user_history(view, ask.user, ask.session).history
        else:
            history = visitor_history(model, ask.history or (), ask.ratings or {}, now)
        codes = view.context.item_ids.encode(list(ask.items))
        found = predict_ratings(model, history, np.zeros(len(codes), np.int64), codes, now, Run(threads=1))
        n = len(codes)
        low = [None] * n if found.low is None else found.low.tolist()
        high = [None] * n if found.high is None else found.high.tolist()
        rows = zip(ask.items, found.ratings.tolist(), low, high, found.known_items.tolist())
        return {
            "version": view.version,
            "user": ask.user,
            "known": bool(found.known_users[0]),
            "range": [found.lowest, found.highest],
            "ratings": [
                {"item": item, "rating": rating, "low": least, "high": most, "known": known}
                for item, rating, least, most, known in rows
            ],
        }

    return await access.work.do(work)
