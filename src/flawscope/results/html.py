"""Makes HTML: the environment of the pages' templates, data in a page. Jinja2 is loaded when it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def environment(text_of: Callable[[str], str]) -> Any:
    """Environment of Jinja: escapes, refuses unknown names. text_of: name of a template -> its text."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        loader=FunctionLoader(text_of),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def script_json(value: Any) -> Any:
    """Markup of a JSON value that can stand inside <script>: no text ends the element or opens a comment."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
