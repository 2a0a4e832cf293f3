"""The page /docs: the description of the service as HTML, without scripts, and without anything from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

REF = "#/components/schemas/"
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin:2rem 0 .5rem}a{color:#0b57a4}
details{border:1px solid #ccc;border-radius:6px;margin:.4rem 0;padding:.4rem .8rem}
summary{cursor:pointer}code,pre{font-family:ui-monospace,monospace;font-size:.9em}
pre{background:#f4f4f4;padding:.6rem;border-radius:6px;overflow:auto;max-height:24rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}
b.method{display:inline-block;min-width:4.5rem}
@media (prefers-color-scheme:dark){body{color:#e8e8e8;background:#161616}a{color:#8ec5ff}pre{background:#242424}
details{border-color:#444}}
"""


def page_of(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    schemas = document.get("components", {}).get("schemas", {})
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = operation.get("tags", ["more"])[0]
            by_tag.setdefault(tag, []).append(_operation(method, path, operation))
    parts = [f"<h2>{escape(tag)}</h2>{''.join(some)}" for tag, some in by_tag.items()]
    kinds = "".join(f'<details id="{escape(name)}"><summary><code>{escape(name)}</code> '
                    f"{escape(schema.get('description', ''))}</summary>{_json(schema)}</details>"
                    for name, schema in sorted(schemas.items()))  # fmt: skip
    title = f"{document['info']['title']} {document['info']['version']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><p>Each request but those of state brings a key: "
        "<code>Authorization: Bearer KEY</code>. "
        'For programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(parts)}<h2>bodies and answers</h2>{kinds}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(one['in'])}"
        f"{', required' if one.get('required') else ''}</td><td>{_short(one.get('schema', {}))}</td></tr>"
        for one in operation.get("parameters", ())
    )
    bodies = "".join(f"<p>Body, <code>{escape(kind)}</code>: {_short(one.get('schema', {}))}</p>"
                     for kind, one in operation.get("requestBody", {}).get("content", {}).items())  # fmt: skip
    answers = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(one.get('description', ''))}</td><td>"
        + "".join(_short(kind.get("schema", {})) for kind in one.get("content", {}).values()) + "</td></tr>"
        for status, one in operation.get("responses", {}).items()
    )  # fmt: skip
    return (
        f'<details><summary><b class="method">{escape(method.upper())}</b> <code>{escape(path)}</code></summary>'
        f"<p>{escape(operation.get('description', operation.get('summary', '')))}</p>"
        f"{f'<table>{rows}</table>' if rows else ''}{bodies}<table>{answers}</table></details>"
    )


def _short(schema: dict[str, Any]) -> str:
    ref = schema.get("$ref", "")
    if ref.startswith(REF):
        name = escape(ref.removeprefix(REF))
        return f'<a href="#{name}"><code>{name}</code></a>'
    return f"<code>{escape(json.dumps(schema, ensure_ascii=False))}</code>" if schema else ""


def _json(schema: dict[str, Any]) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"
