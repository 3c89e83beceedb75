"""What pages are made of: texts and files as they may stand in HTML, and a look that light and dark screens share."""

from __future__ import annotations

import base64
from html import escape
from string import Template


def printable(text: str) -> str:
    """A text without characters that steer terminals or cannot be encoded, as file names may hold."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def escaped(text: str) -> str:
    """A text as it may stand between tags and in quoted attributes."""
    return escape(printable(text))


def data_uri(kind: str, data: bytes) -> str:
    """A file as an address that holds it.

    Args:
        kind: its media type, ``"image/png"``.
        data: its bytes.
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def page(title: str, style: str, body: str) -> str:
    """A whole page that may load nothing but what it holds: no script runs, no other address is asked.

    Args:
        title: plain text, for the window and as the heading.
        style: CSS rules beside the common ones.
        body: HTML below the heading.
    """
    return _PAGE.substitute(title=escaped(title), style=style, body=body)


_PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<title>$title</title><style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e22; --soft: #5c626d; --line: #e1e4e8; --bar: #3f72c9 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171b; --ink: #e4e6ea; --soft: #9aa1ac; --line: #2c3037; --bar: #6d9eeb } }
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25 }
h2, summary { font-size: 1.1rem; margin: 2rem 0 .5rem }
small { color: var(--soft); font-size: .85rem } dd, figure { margin: 0 }
.warning { border-left: 5px solid #d9822b; padding: 0 1ex }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: normal }
$style</style></head><body><main><h1>$title</h1>$body</main></body></html>
""")
