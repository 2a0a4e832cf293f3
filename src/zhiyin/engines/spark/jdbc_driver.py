"""The JDBC driver of PostgreSQL: where its jar lies, and how a connection's settings are called there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from zhiyin.core.errors import ConfigError, suggest

if TYPE_CHECKING:
    import psycopg

DRIVER = "org.postgresql.Driver"
# Where Debian's libpostgresql-jdbc-java puts the driver.
DEBIAN_JAR = Path("/usr/share/java/postgresql.jar")
JAR_VARIABLE = "ZHIYIN_JDBC_JAR"
# Settings of an engine that are not Spark's: file of the driver, and the column that a query's answer is cut by.
JAR, PARTITION = "zhiyin.jdbc.jar", "zhiyin.jdbc.partition"
# Names of libpq's settings in the driver; other settings of an address it does not have.
_NAMES = {
    "options": "options", "application_name": "ApplicationName", "connect_timeout": "connectTimeout",
    "sslmode": "sslmode", "sslcert": "sslcert", "sslkey": "sslkey", "sslrootcert": "sslrootcert",
}  # fmt: skip
_PLACE = ("host", "hostaddr", "port", "dbname", "user", "password", "passfile")
FETCH_ROWS = 10_000


def jdbc_settings(options: Mapping[str, str]) -> dict[str, str]:
    """Those options of an engine that are not Spark's. Raises ConfigError for one that there is not."""
    own = {name: value for name, value in options.items() if name.startswith("zhiyin.")}
    for name in own:
        if name not in (JAR, PARTITION):
            raise ConfigError(f"an engine has no option {name!r}", remedy=suggest(name, [JAR, PARTITION]))
    return own


def driver_jar(settings: Mapping[str, str]) -> Path | None:
    """The file of the driver: as the settings of the engine or ZHIYIN_JDBC_JAR name it, else that of Debian's package;
    None where there is none. Raises ConfigError for a named file that there is not."""
    named = settings.get(JAR) or os.environ.get(JAR_VARIABLE)
    if not named:
        return DEBIAN_JAR if DEBIAN_JAR.exists() else None
    if not Path(named).is_file():
        raise ConfigError(
            "there is no such file of PostgreSQL's JDBC driver", file=named,
            remedy=f"install libpostgresql-jdbc-java, or name another: {JAR_VARIABLE}",
        )  # fmt: skip
    return Path(named).resolve()


def jar_settings(url: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Settings of Spark by which a new session has the driver. A Connect server gets it when a query is read."""
    jar = driver_jar(settings)
    return {"spark.jars": str(jar)} if jar is not None and not url.startswith("sc://") else {}


def missing_driver() -> ConfigError:
    return ConfigError(
        "Spark reads PostgreSQL by its JDBC driver, which is not installed",
        remedy=f"apt install libpostgresql-jdbc-java, or name its jar: {JAR_VARIABLE}=/path/postgresql.jar",
    )


def untranslated(connection: psycopg.Connection[Any], url: str) -> str:
    """Why the driver cannot connect as this connection to an address does; "" where it can."""
    from psycopg.conninfo import conninfo_to_dict

    host = connection.info.host
    if not host or host.startswith(("/", "@")):
        return "its address is a socket of this machine"
    unknown = [name for name in conninfo_to_dict(url) if name not in (*_NAMES, *_PLACE)]
    return f"its address has the setting {unknown[0]}" if unknown else ""


def connection_settings(connection: psycopg.Connection[Any]) -> tuple[str, dict[str, str]]:
    """Address and properties by which the driver connects as this connection does."""
    info = connection.info
    host = f"[{info.host}]" if ":" in info.host else info.host
    properties = {_NAMES[name]: value for name, value in info.get_parameters().items() if name in _NAMES}
    properties |= {"driver": DRIVER, "user": info.user, "fetchsize": str(FETCH_ROWS)}
    if info.password:
        properties["password"] = info.password
    return f"jdbc:postgresql://{host}:{info.port}/{quote(info.dbname, safe='')}", properties
