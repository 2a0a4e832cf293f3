"""SQLAlchemy for the store's modules, or the error that names the extra to install."""

from __future__ import annotations

from zhiyin.core.errors import MissingExtraError

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite
except ImportError:
    raise MissingExtraError("sqlalchemy", "serve", "the store") from None

__all__ = ["postgresql", "sa", "sqlite"]
