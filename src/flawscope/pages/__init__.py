"""Pages for the browser. Torch-free.

`report` has the pages of results and figures, `review` those of a person's review. A station's pages add
their own templates, texts, scripts and styles to those of `templates`.
"""

from __future__ import annotations

from flawscope._lazy import lazy_names

# Names for other packages, imported when they are first used (station/library-names.md)
TYPE_CHECKING = False
if TYPE_CHECKING:
    from flawscope.pages.templates import Pages as Pages
    from flawscope.pages.templates import Texts as Texts

__getattr__ = lazy_names(__name__, {"Pages": "templates", "Texts": "templates"})
