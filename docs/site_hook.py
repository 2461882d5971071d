"""A hook of MkDocs: what the pages link to outside docs/ becomes part of the site under repository/.

So one link works in the built site and on GitHub. Markdown becomes a page, other text a page that shows it,
a folder its README or a list of its files; pictures, JSON and CSV are copied.

Tables that the code makes stand where a page has their mark: all options of each command (options.py) in
command-line.md, the options of a fit in python.md, the data checks (check_table.py) in troubleshooting.md.
"""

from __future__ import annotations

import posixpath
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

INLINE_CODE = re.compile(r"<code>[^<]*</code>")  # in running text and tables
COMMAND = re.compile(r'<span class="gp">\$ </span>.*')  # a line of a console block
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
LINK = re.compile(r"(\]\()([^()\s#]+)((?:#[^()\s]*)?\))")
ALWAYS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")  # the navigation has them
COPIED = (".json", ".csv", ".png", ".webp")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".cpp": "cpp", ".hpp": "cpp", ".txt": "text"}
OUTSIDE = "repository"
# reasons and laboratory notes: pages that others link to, and no answers for who searches
NOT_SEARCHED = ("decisions/", f"{OUTSIDE}/bench/")
# marks of pages: the script beside this one, and its function, whose lines stand there
TABLES = {
    "<!-- options -->": ("options.py", "options"),
    "<!-- options of fit -->": ("options.py", "fit_table"),
    "<!-- data checks -->": ("check_table.py", "rows"),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Gives pages an edit link where the address of the repository is known."""
    config.edit_uri = "edit/main/docs/" if config.repo_url else ""
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what is linked to, and what that links to in turn."""
    root = Path(config.docs_dir).parent
    texts = [(path, path.read_text(encoding="utf-8")) for path in Path(config.docs_dir).rglob("*.md")]
    waiting = [root / name for name in ALWAYS] + [target for text in texts for target in targets(*text, root)]
    done: set[str] = set()
    while waiting:
        path = waiting.pop()
        uri = uri_of(path, root)
        if uri in done or uri in files.src_uris:
            continue
        done.add(uri)
        if path.suffix in COPIED:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
            continue
        text = text_of(path, root)
        files.append(File.generated(config, uri, content=text))
        waiting += targets(path / "_" if path.is_dir() else path, text, root)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the repository become links between the site's files."""
    root = Path(config.docs_dir).parent
    here = page.file.src_uri
    for mark, (script, function) in TABLES.items():
        if mark not in markdown:
            continue
        names = runpy.run_path(str(Path(__file__).with_name(script)))
        markdown = markdown.replace(mark, "\n".join(names[function]()))
    if here.startswith(NOT_SEARCHED):
        page.meta.setdefault("search", {"exclude": True})
    path = source_of(here, Path(config.docs_dir), root)

    def moved(found: re.Match[str]) -> str:
        target = (path.parent / found[2]).resolve()
        if "://" in found[2] or not (target.exists() and target.is_relative_to(root)):
            return found[0]  # MkDocs says what it thinks of it
        return found[1] + posixpath.relpath(uri_of(target, root), posixpath.dirname(here) or ".") + found[3]

    return LINK.sub(moved, markdown) if path.suffix == ".md" or path.name == "_" else markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets commands wrap, and keeps names of options whole (style.css)."""

    def marked(code: str) -> str:
        return OPTION.sub(lambda option: f'<span class="option">{option[0]}</span>', code)

    html = COMMAND.sub(lambda line: f'<span class="command">{marked(line[0])}</span>', html)
    return INLINE_CODE.sub(lambda code: marked(code[0]), html)


def targets(path: Path, text: str, root: Path) -> Iterator[Path]:
    """What a page links to in the repository."""
    if path.suffix == ".md" or path.name == "_":
        for _, link, _ in LINK.findall(text):
            target = (path.parent / link).resolve()
            if "://" not in link and target.exists() and target.is_relative_to(root):
                yield target


def uri_of(path: Path, root: Path) -> str:
    """Where a file or folder of the repository stands in the site."""
    if path.is_dir():
        path /= "README.md"
    inside = path.relative_to(root).as_posix()
    if inside.startswith("docs/"):
        return inside.removeprefix("docs/")
    return f"{OUTSIDE}/{inside}" + ("" if path.suffix in (".md", *COPIED) else ".md")


def source_of(uri: str, docs: Path, root: Path) -> Path:
    """The repository's file of a page; FOLDER/_ where the page lists a folder."""
    if not uri.startswith(f"{OUTSIDE}/"):
        return docs / uri
    path = root / uri.removeprefix(f"{OUTSIDE}/")
    if path.exists():
        return path
    return path.parent / "_" if path.name == "README.md" else path.with_suffix("")


def text_of(path: Path, root: Path) -> str:
    """Markdown that shows a file, or lists a folder."""
    name = path.relative_to(root).as_posix()
    if path.is_dir():
        readme = path / "README.md"
        if readme.is_file():
            return readme.read_text(encoding="utf-8")
        inside = sorted(p for p in path.iterdir() if not p.name.startswith((".", "_")))
        lines = [f"- [{p.name}]({p.name}{'/' * p.is_dir()})" for p in inside]
        return f"# {name}/\n\n" + "\n".join(lines) + "\n"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    fence = "`" * 6  # longer than any in the text
    # a file is no page of the guide: it does not belong into the search
    head = "---\nsearch:\n  exclude: true\n---\n"
    return f"{head}# {name}\n\n{fence} {LANGUAGES.get(path.suffix, 'text')}\n{text}\n{fence}\n"
