"""Pages for people, and the script for shops: files beside this one, sent as they are.

GET /try is a page to try the service on; it asks the same API as everyone, with a key that the visitor brings.
GET /zhiyin.js is what a shop puts into its own pages.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from zhiyin.service.endpoint_dispatch import NamedRoute

HERE = Path(__file__).parent
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Kept, but asked about each time: who updates the service sees the new page at once.
    "Cache-Control": "no-cache",
}


def routes() -> list[NamedRoute]:
    """The routes of the pages."""
    files = {name: (HERE / name).read_bytes() for name in ("try.html", "try.css", "try.js", "zhiyin.js")}
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:32]}"' for name, content in files.items()}

    def send(request: Request, name: str) -> Response:
        headers = HEADERS | {"ETag": tags[name]}
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if tags[name] in known:
            return Response(status_code=304, headers=headers)
        return Response(files[name], headers=headers, media_type=TYPES[Path(name).suffix])

    async def page(request: Request) -> Response:
        return send(request, "try.html")

    async def part(request: Request) -> Response:
        file = request.path_params["file"]
        if file not in ("try.css", "try.js"):
            raise HTTPException(404, "there is no such file")
        return send(request, file)

    async def script(request: Request) -> Response:
        return send(request, "zhiyin.js")

    return [NamedRoute("/try", page), NamedRoute("/try/{file}", part), NamedRoute("/zhiyin.js", script)]
