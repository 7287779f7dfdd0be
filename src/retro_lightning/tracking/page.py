"""Data half: one HTML page that holds all that it shows: no script, nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; background: white; border-radius: 4px; margin: .5rem 0; }
li { margin: .2rem 0; }
"""


def page(content: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page.

    Args:
        content: ``title``, ``lead``, ``notes`` (sentences) and ``tables``: each a title, headings
            and rows of text.
        pictures: Name → PNG.
    """
    title = escape(content["title"])
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1><p>{escape(content['lead'])}</p>",
        "<ul>",
        *(f"<li>{escape(note)}</li>" for note in content["notes"]),
        "</ul>",
    ]
    for heading, columns, rows in content["tables"]:
        if rows:
            parts += [f"<h2>{escape(heading)}</h2>", _table(columns, rows)]
    for name, picture in pictures.items():
        data = base64.b64encode(picture).decode()
        alt = escape(name.replace("_", " "), quote=True)
        parts.append(f'<img alt="{alt}" src="data:image/png;base64,{data}">')
    return "\n".join([*parts, "</body></html>", ""])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'
