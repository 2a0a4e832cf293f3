"""All sections of the settings file."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

from pydantic import Field

from zhiyin.data.event_schema import LARGEST_WEIGHT
from zhiyin.data.project_config.data_sections import (
    ColumnsSection,
    DataSection,
    FeaturesSection,
    ReadSection,
    SchemaSection,
)
from zhiyin.data.project_config.section import Section
from zhiyin.data.project_config.service_sections import AdsSection, AnswersSection, ServiceSection, StreamsSection
from zhiyin.data.project_config.training_sections import (
    EvaluateSection,
    RunSection,
    SplitSection,
    TrainSection,
    TuneSection,
)

FILE_NAME = "zhiyin.toml"
# Sections whose keys are names: of kinds, models, rules, placements, experiments.
FREE_SECTIONS = ("weights", "models", "rules", "placements", "experiments")
# Sections that hold tables of keys, such as [features.reviews].
NESTED_SECTIONS = ("features",)


with warnings.catch_warnings():
    # [schema] has the name of a method that pydantic keeps for programs of its first version.
    warnings.filterwarnings("ignore", 'Field name "schema"', UserWarning)

    class Config(Section):
        """The whole file."""

        data: DataSection = Field(default_factory=DataSection)
        columns: ColumnsSection = Field(default_factory=ColumnsSection)
        read: ReadSection = Field(default_factory=ReadSection)
        features: FeaturesSection = Field(default_factory=FeaturesSection)
        weights: dict[str, Annotated[float, Field(ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)]] = Field(
            default_factory=dict,
            title="a number from -1000000 to 1000000 for each kind or condition",
            description="What events are worth; the first rule that matches decides, else they are worth 0.",
        )
        split: SplitSection = Field(default_factory=SplitSection)
        train: TrainSection = Field(default_factory=TrainSection)
        models: dict[str, dict[str, Any]] = Field(
            default_factory=dict,
            title="a table of hyperparameters, [models.NAME]",
            description="Hyperparameters by model. They are checked against the model when it is made.",
        )
        evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
        tune: TuneSection = Field(default_factory=TuneSection)
        answers: AnswersSection = Field(default_factory=AnswersSection)
        schema: SchemaSection = Field(default_factory=SchemaSection)  # type: ignore[assignment]
        rules: dict[str, Any] = Field(
            default_factory=dict,
            title="a table of rules",
            description="What may be shown, what is pushed, and who gets which slot. Checked when lists are made.",
        )
        placements: dict[str, dict[str, Any]] = Field(
            default_factory=dict,
            title="a table of settings, [placements.NAME]",
            description="Settings of lists by the place they are shown at; a running service takes up changes.",
        )
        experiments: dict[str, dict[str, Any]] = Field(
            default_factory=dict,
            title="a table of settings, [experiments.NAME]",
            description="Which arms a placement's lists are made by, and what is measured; changes are taken up.",
        )
        ads: AdsSection = Field(default_factory=AdsSection)
        service: ServiceSection = Field(default_factory=ServiceSection)
        streams: StreamsSection = Field(default_factory=StreamsSection)
        run: RunSection = Field(default_factory=RunSection)
