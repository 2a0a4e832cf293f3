"""`zhiyin serve`: the HTTP service over the version in use."""

from __future__ import annotations

from typing import Annotated

import typer

from zhiyin.cli.options import CONFIG, ConfigFile
from zhiyin.core.errors import MissingExtraError


def serve(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    store: Annotated[
        str | None, typer.Option(help="Where events are kept: a path, or postgresql://…; default store.db.")
    ] = None,
    config: ConfigFile = CONFIG,
) -> None:
    """Answer over HTTP: events in, recommendations out. Needs a version in use: zhiyin train --budget 10m.

    The first start makes keys and shows them once. A version that is promoted while it runs is taken up by itself.

    \b
    Examples:
      zhiyin serve
      zhiyin serve --host 0.0.0.0 --port 80 --store 'postgresql://shop@db/zhiyin'
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError:
        raise MissingExtraError("fastapi", "serve", "the service") from None
    from zhiyin.cli.show import say
    from zhiyin.service.app import create_app
    from zhiyin.service.tenant import Tenant

    shop, shown = Tenant.open(config, store=store)
    for scope, key in shown.items():
        say(f"key to {scope}: {key}")
    if shown:
        say("keep them: they are shown this once. keys.json holds their hashes; delete it to make new ones")
    say(f"version {shop.live.now.version} answers at http://{host}:{port}, described at /docs")
    try:
        uvicorn.run(create_app([shop]), host=host, port=port, log_level="warning", access_log=False)
    finally:
        shop.close()
