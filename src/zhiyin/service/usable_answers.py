"""Answers of a version under the rules that can be used; the others are left out, with their reason."""

from __future__ import annotations

import dataclasses
from typing import Any

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.pipeline.answer_settings import MATCHES_NOTHING, hides_everything, usable_rules
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.rulebook import Rulebook
from zhiyin.pipeline.rules import Rules
from zhiyin.service.loaded_version import LoadedVersion


def build_answers(loaded: LoadedVersion, schema: CatalogueSchema) -> tuple[Answers, dict[str, str]]:
    """Answers under the rules of the settings that can be read and that the catalogue allows.

    Returns them with the reasons why the other rules are left out, by name.
    """

    def answers(**options: Any) -> Answers:
        return Answers(loaded.model, loaded.items, loaded.users, kinds=tuple(loaded.kinds), run=Run(threads=1),
                       schema=schema, links=loaded.links, **{**loaded.options, **options})  # fmt: skip

    rules, unusable = loaded.options["rules"], dict(loaded.unreadable)
    if hides_everything(unusable):
        rules = dataclasses.replace(rules, filter=MATCHES_NOTHING)
    try:
        result = answers(rules=rules)
    except ConfigError:
        plain = answers(rules=Rules())
        rules, unbound = usable_rules(
            rules, lambda some: Rulebook(some, plain.filters, kinds=tuple(loaded.kinds), item_ids=plain.ids)
        )
        if not unbound:  # something else than a rule
            raise
        unusable |= unbound
        result = answers(rules=rules)
    try:
        result.check_diversity()
    except ConfigError as error:
        unusable["[answers] categories" if result.by else "[answers] variety"] = error.message.splitlines()[0]
        result = answers(rules=rules, variety="none", by="")
    return result, unusable
