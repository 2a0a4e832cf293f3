"""Sections of the sources, of their columns and how they are written, and of column types."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from zhiyin.core.durations import is_duration
from zhiyin.core.errors import ConfigError
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.project_config.section import Section, key
from zhiyin.data.type_names import parse_type


class DataSection(Section):
    """Where the events, items and users are. Paths are taken from the folder of this file."""

    source: str | list[str] | dict[str, str | list[str]] | None = key(
        None,
        "the event log: a file, a folder, a list of files, { kind = file }, or a database, ${DATABASE_URL}",
        "a text, a list of texts, or a table from event kind to file",
        "ratings.csv",
    )
    items: str | None = key(None, "what is known of items; in a folder it is found by itself", "a text", "movies.csv")
    users: str | None = key(None, "what is known of users; in a folder it is found by itself", "a text", "users.csv")
    links: str | None = key(None, "who follows or befriends whom, two columns of users", "a text", "friends.csv")
    images: str | None = key(
        None, "folder of the pictures of items, named by item id or by a column of paths", "a text", "pictures"
    )
    query: str | None = key(
        None,
        "the SQL query that gives the events of a database",
        "a text",
        "SELECT user_id, item_id, at FROM events",
    )
    query_timeout: str = key("10m", "how long the query may take", 'a duration such as "10m"')
    query_rows: int = key(100_000_000, "rows that its answer may have", "a whole number above 0", ge=1, le=10**12)
    strict: bool = key(False, "stop at the first bad row instead of setting bad rows aside", "true or false")

    @field_validator("query_timeout")
    @classmethod
    def _timeout(cls, timeout: str) -> str:
        if not is_duration(timeout):
            raise ValueError
        return timeout


class ColumnsSection(Section):
    """Which column plays which role. What is left out is guessed from names and contents, and said."""

    user: str | None = key(None, "who acted", "a text", "user_id")
    item: str | None = key(None, "on what", "a text", "item_id")
    time: str | None = key(None, "when: seconds, milliseconds or ISO 8601", "a text", "timestamp")
    rating: str | None = key(None, "how much: a rating, a quantity, a duration", "a text", "rating")
    kind: str | None = key(None, "what was done: view, cart, purchase, ...", "a text", "event")
    item_id: str | None = key(None, "key column of the items table", "a text", "id")
    user_id: str | None = key(None, "key column of the users table", "a text", "id")
    image: str | None = key(None, "column of the items: the path of the picture", "a text", "picture")
    link_user: str | None = key(None, "column of the links: who", "a text", "user_id")
    link_other: str | None = key(None, "column of the links: whom", "a text", "friend_id")
    link_weight: str | None = key(None, "column of the links: how much, above 0", "a text", "weight")
    item_columns: list[str] = key([], "columns of the log that describe the item", "a list of texts")
    user_columns: list[str] = key([], "columns of the log that describe the user", "a list of texts")


class ReadSection(Section):
    """How the sources are written, where their content leaves it open. What zhiyin assumed stands here."""

    encoding: str | None = key(None, "encoding of text files", 'a text such as "gb18030"', "gb18030")
    separator: str | None = key(None, "between the fields of text files", 'one or two characters such as ";"', ";")
    header: int | None = key(
        None, "line of the header, from 1; 0 for none", "a whole number from 0 to 100", 1, ge=0, le=100
    )
    decimal: Literal[".", ","] | None = key(None, "whether 1,234 is 1.234 or 1234", '"." or ","', ",")
    day_first: bool | None = key(None, "whether 03/04/2024 is 3 April or 4 March", "true or false", True)
    zone: str | None = key(None, "where times without a zone are from; else UTC", "a zone", "Europe/Berlin")
    missing: list[str] | None = key(None, "words that stand for a missing value", "a list of texts", ["NA", "-"])
    text: list[str] | None = key(None, "columns that stay text, though of numbers", "a list of texts", ["zip"])


class ReviewsSection(Section):
    """Reviews in words: what they are worth becomes the value of an event that has none."""

    column: str | None = key(None, "column of the log that holds the text of reviews", "a text", "review")
    language: Literal["auto", "en", "zh"] = key(
        "auto", "language of the lexicon; auto: by the writing of each text", 'one of "auto", "en", "zh"'
    )
    worst: float | None = key(
        None, "value of the worst review; left out, the lowest rating of the log, else -1",
        "a number from -1000000 to 1000000", 1.0, ge=-1e6, le=1e6,
    )  # fmt: skip
    best: float | None = key(
        None, "value of the best review; left out, the highest rating of the log, else 1",
        "a number from -1000000 to 1000000", 5.0, ge=-1e6, le=1e6,
    )  # fmt: skip


class FeaturesSection(Section):
    """What is made of columns before anything is learned."""

    reviews: ReviewsSection = Field(
        default_factory=ReviewsSection, title="a table of keys", description="see [features.reviews]"
    )


class SchemaSection(Section):
    """Types of columns of the catalogue, where they are to be others than those its contents show."""

    items: dict[str, str] = key({}, "types by column of items", '{ price = "number", tags = "texts" }')
    users: dict[str, str] = key({}, "types by column of users", '{ joined = "date" }')

    @field_validator("items", "users")
    @classmethod
    def _types(cls, types: dict[str, str]) -> dict[str, str]:
        try:
            return {name: parse_type(type, name) for name, type in types.items()}
        except ConfigError:
            raise ValueError from None

    @property
    def types(self) -> CatalogueSchema:
        return CatalogueSchema(self.items, self.users)
