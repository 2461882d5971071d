"""Pages for the browser: of answers and figures (`report`), and of a person's review of them (`review`); the
templates, texts, scripts and styles that a station's pages add theirs to. Torch-free.
"""

from __future__ import annotations

from flawscope._lazy import lazy_names

# Names for other packages, imported when they are first used (station/library-names.md)
TYPE_CHECKING = False
if TYPE_CHECKING:
    from flawscope.pages.templates import Pages as Pages
    from flawscope.pages.templates import Texts as Texts

__getattr__ = lazy_names(__name__, {"Pages": "templates", "Texts": "templates"})
