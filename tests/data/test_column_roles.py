"""The sentence of roles."""

from __future__ import annotations

from zhiyin.data.column_roles import Roles


def test_roles_are_said() -> None:
    roles = Roles("u", "i", time="t", item_columns=("title", "price"))
    assert roles.sentence() == "user = u; item = i; time = t; item_columns = title, price"
