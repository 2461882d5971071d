"""Pages of docs/: calls that no test runs can be parsed; links, error lines and named files exist."""

import ast
import hashlib
import importlib
import json
import re
import shlex
from itertools import pairwise

import pytest
import yaml

import flawscope
from flawscope import config
from flawscope.cli.program import commands
from flawscope.errors import InputError
from flawscope.methods import registry
from flawscope.methods.options import FIT_OPTIONS, NEW_PRODUCT
from flawscope.methods.options.arguments import ARGUMENTS
from flawscope.methods.options.record import NOTHING, records_of
from flawscope.predictor import Predictor
from page_helpers import DOCS, NOTES, PAGES, ROOT, drawing, error_lines, parser_of

LINK = re.compile(r"\]\(([^()\s#]*)(?:#([^()\s]*))?\)")


def here():
    """What stands in backquotes in the last column of the tables of "Coming from another tool"."""
    for line in (DOCS / "coming-from.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            yield from re.findall(r"`([^`]+)`", line.rstrip("| ").rsplit(" | ", 1)[1])


def takes(method, key, text):
    try:
        method.configure(values=config.parse_assignments([f"{key}={text}"]))
    except InputError:
        return False
    return True


def site_settings():
    """The settings of the site; what a variable of the environment gives is empty."""

    class Settings(yaml.SafeLoader):
        pass

    Settings.add_constructor("!ENV", lambda loader, node: "")
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Settings)


def test_every_option_setting_and_choice_of_the_right_column_exists():
    known = {o for name in commands() for action in parser_of(name)._actions for o in action.option_strings}
    options = {word for code in here() for word in code.split() if word.startswith("--")}
    assert len(options) > 15
    assert options <= known, options - known
    checked = 0
    methods = {name: registry.method(name) for name in registry.names()}
    for option, value in (pair for code in here() for pair in pairwise(shlex.split(code))):
        if option == "--set" and not value.startswith("key="):
            assert any(takes(method, *value.split("=", 1)) for method in methods.values()), value
            checked += 1
        elif option == "--method":
            assert value in methods
        elif option == "--preset":
            assert all(value in methods[name].presets for name in registry.BUILT_IN)
    assert checked > 4


def test_names_of_python_exist():
    names = {code for code in here() if re.fullmatch(r"[a-z_]+", code)}
    fields = set(flawscope.Prediction.__dataclass_fields__) | set(dir(flawscope.Prediction))
    assert {"score", "is_anomalous", "map", "mask", "p_value", "regions"} <= names & fields
    for owner, called in ((Predictor, "model"), (flawscope, "flawscope")):
        methods = {found for code in here() for found in re.findall(rf"^{called}\.(\w+)\(", code)}
        assert methods
        assert all(hasattr(owner, method) for method in methods), methods


def anchors(page):
    """Of a page's headings, as GitHub and MkDocs make them; both leave out what is neither word nor space."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [ROOT / "README.md", NOTES, *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


def test_lists_begin_after_an_empty_line():
    """GitHub does without it, MkDocs would make one paragraph of it."""
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES):
        lines = page.read_text(encoding="utf-8").splitlines()
        for above, line in pairwise(lines):
            starts = re.match(r"(- |\d+\. )", line) and not re.match(r"(- |\d+\. |\s)", above)
            assert not (starts and above), f"{page.name}: {line}"


def test_the_reference_has_every_public_name():
    """Each is named twice: as it is called, and where its docstring is."""
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    entries = re.findall(r"^::: flawscope\.([\w.]+)\n +options:\n +heading: flawscope\.([\w.]+)$", page, re.M)
    for where, name in entries:
        module, _, last = where.rpartition(".")
        assert getattr(importlib.import_module(f"flawscope.{module}"), last).__name__ == name.split(".")[-1]
    assert set(flawscope.__all__) - {"__version__"} <= {name for _, name in entries}


def test_the_search_needs_no_server_and_no_network():
    site = site_settings()
    assert "offline" in site["plugins"]
    (script,) = site["extra"]["polyfills"]  # without one that is called so, the plugin takes a network's
    text = (DOCS / script).read_bytes()
    assert "iframe-worker" in script
    assert hashlib.sha256(text.partition(b"*/\n")[2]).hexdigest().encode() in text  # as it was published


def test_the_navigation_has_every_page_once_but_decisions():
    def pages(entry):
        if isinstance(entry, str):
            yield entry
        for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from pages(inner)

    shown = list(pages(site_settings()["nav"]))
    own = [name for name in shown if not name.startswith("repository/")]
    pages_of_docs = [page.relative_to(DOCS).as_posix() for page in PAGES]
    assert sorted(own) == [name for name in pages_of_docs if not name.startswith("decisions/")]
    for name in set(shown) - set(own):
        assert (ROOT / name.removeprefix("repository/")).is_file()


JUDGES = (  # modules that judge pictures or names: each remark and question of theirs is explained
    "calibration/outliers",
    "datasets/mask_remarks",
    "fitting/fitting",
    "pictures/levels",
    "pictures/units",
    "predictor/recalibration",
)
NO_GUARDS = (  # lines of these about the model, not about pictures or names, and parts of others
    "are nearly the same as others",
    "the false-alarm rate is kept",
    "was not measured after the model was extended",
    "it names no kinds of defects since",
    "left out before calibrating on the rest",
    "its mask fits upright and as stored",
    "calibrated anew on",
)


LINES = ("line", "note")  # names of the texts that get a code


def remarks(module):
    """The lines that a module yields, returns, says, or collects, with … for what is put in."""

    def text(node):
        if isinstance(node, ast.BinOp):
            return text(node.left) + text(node.right)
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        return "".join(
            p.value if isinstance(p, ast.Constant) and isinstance(p.value, str) else "…" for p in parts
        )

    tree = ast.parse((ROOT / "src/flawscope" / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        is_line = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in LINES
        if is_line or (isinstance(node, ast.Yield | ast.Return) and node.value is not None):
            yield text(node.value)
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            yield from map(text, node.args[:1] if called in ("append", "say", "coded") else ())


def test_every_guard_is_explained():
    rows = [[piece.strip(" :;,") for piece in line.split("...")] for line in error_lines()]
    for module in JUDGES:
        guards = [line for line in remarks(module) if len(line.replace("…", "")) > 30]
        assert guards, module
        unknown = [
            line
            for line in guards
            if not any(all(piece in line for piece in row) and max(map(len, row)) > 10 for row in rows)
        ]
        assert [line for line in unknown if not any(words in line for words in NO_GUARDS)] == [], module


def test_files_and_modules_that_pages_name_exist():
    """The tables "step, file in FOLDER" of the methods, and the modules of the ways of a picture."""
    named = []
    for page in PAGES:
        tables = re.findall(
            r"^\| step \| file in `(src/[\w/]+)` \|\n((?:\|.*\n)+)", page.read_text(encoding="utf-8"), re.M
        )
        for folder, rows in tables:
            last = "\n".join(row.rsplit("|", 2)[1] for row in rows.splitlines())
            named += [ROOT / folder / name for name in re.findall(r"`([\w/]+(?:\.py|/))`", last)]
    ways = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for name in re.findall(r"^\| \d \| `([\w.]+)`", ways, re.M):
        path = ROOT / "src" / "flawscope" / name.lower().replace("name", "patchcore").replace(".", "/")
        named.append(path if path.is_dir() else path.with_suffix(".py"))
    assert [path for path in named if not path.exists()] == []
    assert len(named) > 30


def test_figures_come_from_the_scripts_that_are_named():
    """And in the table of bench/README.md, where a script that is gone has a commit."""
    page = NOTES.read_text(encoding="utf-8")
    table = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    made = dict(re.findall(r"^\| `([\w-]+\.json)` \|.*\| `([^|]+) \|$", table, re.M))
    named = set()
    for script, files in re.findall(
        r"`bench/([\w/]+\.py)`: ((?:\[[\w-]+\.json\]\(results/[\w-]+\.json\)(?:, )?)+)", page
    ):
        for name in re.findall(r"\[([\w-]+\.json)\]", files):
            named.add(name)
            made_by = set(re.findall(r'"command": "python bench/([\w/]+\.py)', _results(name)))
            assert made_by == {script}, f"{name} was made by {made_by}"
            assert made[name].startswith(f"{script}`"), name
            there = (ROOT / "bench" / script).is_file()
            commit = re.search(r"[0-9a-f]{7}|version \d", made[name])
            assert there or commit, f"{script} is gone: at which commit?"
    assert named == {path.name for path in (ROOT / "bench" / "results").glob("*.json")} == set(made)


def test_figures_are_those_of_the_results_files():
    """Each of the README with the commit at which it was measured."""
    made = drawing("figures")
    for page in made.TABLES:
        assert page.read_text(encoding="utf-8") == made.drawn(page), f"{page.name}: run make figures"
    said = made.README.read_text(encoding="utf-8").replace(made.BEGIN, made.END).split(made.END)
    assert not re.findall(r"\d[.,]\d+ ?(?:ms|s|MiB|%)|0\.\d{3,}|\*screen\*", said[0] + said[2])


def test_what_is_not_measured_yet_is_not():
    """Neither is there a results file, nor, of a script's parts that are named, a cell of one."""
    page = NOTES.read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| .* \| `python (bench/[\w/]+\.py)(?: --only (\S+))?` \| `(\S+\.json)` \|$",
        page[page.index("## Not measured yet") :],
        re.M,
    )
    assert rows
    for script, parts, name in rows:
        assert (ROOT / script).is_file(), script
        if not (ROOT / "bench" / "results" / name).exists():
            continue
        cells = json.loads(_results(name))["cells"]
        done = {cell.split("/")[0] for cell in cells} & set(parts.split(","))
        assert parts, f"{name} is there: move its row up, with its figures"
        assert not done, f"{name} has {', '.join(done)}: move this up, with its figures"


def _results(name):
    return json.dumps(json.loads((ROOT / "bench" / "results" / name).read_text(encoding="utf-8")))


def test_pages_name_the_options_that_the_records_have():
    """Their table for Python, those that New product asks for, those with which a search tries nothing."""
    assert "<!-- options of fit -->" in (DOCS / "python.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ", "\n".join(drawing("options").fit_table()), re.M)
    assert rows == [option.argument for arguments in ARGUMENTS for option in records_of(arguments)]
    station = (DOCS / "station-new-product.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"Options as of `flawscope fit`: (.*?);", station)
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(option.name for option in NEW_PRODUCT)
    search = (DOCS / "automatic-settings.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"It does not run with (.*?)\.", search)
    nothing = {option.name for option in FIT_OPTIONS if option.search == NOTHING}
    own = {"minutes", "resume", "view"}  # of the search itself; --view goes with --part
    assert {*re.findall(r"`--(\w+)`", listed)} == nothing - own
