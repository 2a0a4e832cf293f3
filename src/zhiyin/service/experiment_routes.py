"""Handlers of experiments."""

from __future__ import annotations

from typing import Any

from zhiyin.api import endpoints
from zhiyin.api.experiment_settings import ExperimentSettings, StopRequest
from zhiyin.service.authentication import Access
from zhiyin.service.endpoint_dispatch import handles
from zhiyin.service.experiment_versions import experiment_json


@handles(endpoints.LIST_EXPERIMENTS)
async def list_experiments(access: Access) -> Any:
    experiments = access.experiments
    await access.work.do(experiments.refresh)
    return {"experiments": [experiment_json(one, experiments.issue_of(one.name)) for one in experiments.all()]}


@handles(endpoints.GET_EXPERIMENT)
async def get_experiment(access: Access, name: str) -> Any:
    await access.work.do(access.experiments.refresh)
    return experiment_json(access.experiments.get(name), access.experiments.issue_of(name))


@handles(endpoints.PUT_EXPERIMENT)
async def put_experiment(access: Access, name: str, body: ExperimentSettings) -> Any:
    settings = body.model_dump(exclude_defaults=True)
    return {"name": name, "version": await access.writes.do(access.experiments.put, name, settings)}


@handles(endpoints.DELETE_EXPERIMENT)
async def delete_experiment(access: Access, name: str) -> Any:
    await access.writes.do(access.experiments.delete, name)
    return {"name": name}


@handles(endpoints.EXPERIMENT_VERSIONS)
async def experiment_versions(access: Access, name: str) -> Any:
    return {"name": name, "versions": await access.work.do(access.experiments.versions, name)}


@handles(endpoints.EXPERIMENT_RESULTS)
async def experiment_results(access: Access, name: str) -> Any:
    def work() -> dict[str, Any]:
        access.experiments.refresh()
        version = access.experiments.get(name)
        return access.evaluator.results(version).to_dict()

    return await access.work.do(work)


@handles(endpoints.STOP_EXPERIMENT)
async def stop_experiment(access: Access, name: str, body: StopRequest) -> Any:
    version = await access.writes.do(access.experiments.stop, name, body.arm, body.reason)
    return {"name": name, "version": version}
