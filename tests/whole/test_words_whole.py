"""One word, one meaning: the table of CONTRIBUTING, and the words that it replaced do not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from page_helpers import PAGES, ROOT

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
MAX_WORDS = 450  # of the page, without its tables' lines between cells and without the table of words
MAX_ROWS = 60  # of the table of words
SOURCES = ("src", "station/src", "line/src")
# packages in which it is the field's word: an odd number, the floor of a value
FIELD = {"odd": {"methods"}, "floor": {"methods", "pictures", "synthesis"}}
ALONE = {"but"}  # as a whole name alone


def table() -> list[tuple[str, str, str]]:
    """The rows of the table of words."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    section = text[text.index("| word |") :]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", section, re.M)
    return rows[1:]


def old_names() -> set[str]:
    """What stands in backquotes in its last column: words of names in the code."""
    return {old for _, _, third in table() for old in re.findall(r"`(\w+)`", third)}


def old_words() -> set[str]:
    """What stands in italics there: words of the pages."""
    return {old for _, _, third in table() for old in re.findall(r"\*([\w -]+)\*", third)}


def names(tree: ast.AST) -> Iterator[str]:
    """Names that a module gives."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def words_of(name: str) -> str:
    """`_told_at` and `ToldAt` as "_told_at_"."""
    return f"_{re.sub(r'(?<=[a-z])(?=[A-Z])', '_', name).lower().strip('_')}_"


def found_names() -> Iterator[tuple[str, str, str, str]]:
    """(old word, package, file, name) for each name with an old word."""
    old = old_names()
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            package = path.relative_to(ROOT / source).parts[1].removesuffix(".py")
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for name in {path.stem, *names(tree)}:
                for word in old:
                    if name == word or (word not in ALONE and f"_{word}_" in words_of(name)):
                        yield word, package, path.name, name


def prose(path: Path) -> str:
    """The text of a page without code, names of files, links' targets and comments."""
    text = re.sub(r"^ *```.*?^ *```|<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"^    .*$|`[^`]*`|\[[\w-]+\.json(?=\])", "", text, flags=re.M)
    return re.sub(r"\]\([^)]*\)", "]", text)


def test_old_names_do_not_come_back():
    found = [one for one in found_names() if one[1] not in FIELD.get(one[0], ())]
    assert found == []


def test_old_words_do_not_come_back_in_the_pages():
    pattern = re.compile(rf"\b({'|'.join(sorted(old_words()))})\b", re.I)
    pages = [ROOT / "README.md", *PAGES]
    assert {(page.name, word) for page in pages for word in pattern.findall(prose(page))} == set()


def test_the_page_for_contributors_stays_short():
    text = CONTRIBUTING.read_text(encoding="utf-8")
    counted = text[: text.index("| word |")]
    assert len([word for word in counted.split() if word != "|"]) <= MAX_WORDS
    assert 15 <= len(table()) <= MAX_ROWS
