"""The calls as methods, listed once for both clients.

Type checkers see each method with the arguments of its call: `Client` returns the value, `AsyncClient` a coroutine.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from zhiyin.client import (
    ad_calls,
    admin_calls,
    api_call,
    catalog_calls,
    decision_calls,
    event_calls,
    experiment_calls,
    key_calls,
    link_calls,
    list_calls,
    policy_calls,
    rating_calls,
)
from zhiyin.client.api_call import Call, CallSequence

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Method(Protocol[P, T_co]):
    """The type of a call as a method: its result depends on the client."""

    @overload
    def __get__(self, client: SyncMethods, kind: type[SyncMethods] | None = None) -> Callable[P, T_co]: ...
    @overload
    def __get__(
        self, client: AsyncMethods, kind: type[AsyncMethods] | None = None
    ) -> Callable[P, Coroutine[Any, Any, T_co]]: ...
    @overload
    def __get__(self, client: None, kind: type[Any] | None = None) -> Callable[Concatenate[Any, P], Any]: ...


def method(build: Callable[P, Call[T] | CallSequence[T]]) -> Method[P, T]:
    """A method that builds a call and executes it, with the name, docstring and arguments of `build`."""

    @functools.wraps(build)
    def execute(client: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return client._execute(functools.partial(build, *args, **kwargs))

    signature = inspect.signature(build)
    self_parameter = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    execute.__signature__ = signature.replace(parameters=[self_parameter, *signature.parameters.values()])  # type: ignore[attr-defined]
    return execute  # type: ignore[return-value]


class Methods:
    """The methods of both clients."""

    call = method(api_call.call)

    event = method(event_calls.event)
    events = method(event_calls.events)

    recommend = method(list_calls.recommend)
    more = method(list_calls.more)
    rank = method(list_calls.rank)
    predict = method(rating_calls.predict)
    similar = method(list_calls.similar)
    similar_users = method(list_calls.similar_users)
    popular = method(list_calls.popular)
    trending = method(list_calls.trending)
    covisits = method(list_calls.covisits)
    pages = method(list_calls.pages)
    impressions = method(list_calls.impressions)
    history = method(list_calls.history)
    get_list = method(list_calls.get_list)
    replay = method(list_calls.replay)

    decide = method(decision_calls.decide)
    reward = method(decision_calls.reward)
    activate = method(decision_calls.activate)

    ads = method(ad_calls.ads)
    list_campaigns = method(ad_calls.list_campaigns)
    get_campaign = method(ad_calls.get_campaign)
    put_campaign = method(ad_calls.put_campaign)
    delete_campaign = method(ad_calls.delete_campaign)

    put_item = method(catalog_calls.put_item)
    patch_item = method(catalog_calls.patch_item)
    get_item = method(catalog_calls.get_item)
    delete_item = method(catalog_calls.delete_item)
    put_items = method(catalog_calls.put_items)
    search = method(catalog_calls.search)
    put_user = method(catalog_calls.put_user)
    patch_user = method(catalog_calls.patch_user)
    get_user = method(catalog_calls.get_user)
    delete_user = method(catalog_calls.delete_user)
    put_users = method(catalog_calls.put_users)

    put_link = method(link_calls.put_link)
    delete_link = method(link_calls.delete_link)
    put_links = method(link_calls.put_links)
    get_links = method(link_calls.get_links)
    suggested_users = method(link_calls.suggested_users)

    whatif = method(admin_calls.whatif)

    get_schema = method(admin_calls.get_schema)
    put_schema = method(admin_calls.put_schema)
    list_placements = method(admin_calls.list_placements)
    get_placement = method(admin_calls.get_placement)
    put_placement = method(admin_calls.put_placement)
    delete_placement = method(admin_calls.delete_placement)
    placement_versions = method(admin_calls.placement_versions)
    rollback_placement = method(admin_calls.rollback_placement)
    list_experiments = method(experiment_calls.list_experiments)
    get_experiment = method(experiment_calls.get_experiment)
    put_experiment = method(experiment_calls.put_experiment)
    delete_experiment = method(experiment_calls.delete_experiment)
    experiment_versions = method(experiment_calls.experiment_versions)
    experiment_results = method(experiment_calls.experiment_results)
    stop_experiment = method(experiment_calls.stop_experiment)
    list_policies = method(policy_calls.list_policies)
    get_policy = method(policy_calls.get_policy)
    promote_policy = method(policy_calls.promote_policy)
    rollback_policy = method(policy_calls.rollback_policy)
    freeze_policy = method(policy_calls.freeze_policy)
    unfreeze_policy = method(policy_calls.unfreeze_policy)
    kill_policy = method(policy_calls.kill_policy)
    revive_policy = method(policy_calls.revive_policy)
    list_keys = method(key_calls.list_keys)
    add_key = method(key_calls.add_key)
    revoke_key = method(key_calls.revoke_key)
    page_token = method(key_calls.page_token)
    health = method(admin_calls.health)
    ready = method(admin_calls.ready)


class SyncMethods(Methods):
    """The methods of a client that waits for each response."""

    def _execute(self, build: Callable[[], Call[T] | CallSequence[T]]) -> T:
        raise NotImplementedError


class AsyncMethods(Methods):
    """The methods of a client whose responses are awaited."""

    async def _execute(self, build: Callable[[], Call[T] | CallSequence[T]]) -> T:
        raise NotImplementedError
