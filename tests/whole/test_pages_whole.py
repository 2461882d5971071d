"""Pages of docs/: calls that no test runs can be parsed; links, error lines and named files exist."""

import argparse
import ast
import re
import tomllib

from flawscope.cli.program import COMMANDS, commands
from flawscope.errors import data_checks
from flawscope.methods import registry
from page_helpers import DOCS, PAGES, ROOT, calls, command_lines, drawing, error_lines, parser_of

HOUSES = ("src", "station/src", "line/src")
LIST = "data_checks.py"
CALLING = [DOCS / name for name in ("coming-from.md", "install.md", "choosing-a-method.md")]


def test_every_call_is_understood():
    for page in PAGES:
        found = list(calls(page.read_text(encoding="utf-8")))
        assert len(found) > 3 or page not in CALLING
        for command, *words in found:
            parser_of(command).parse_args(words)  # raises InputError


def named_commands(text):
    """(command, options) of each span in backquotes that names a command, such as `fit --update`."""
    for span in re.findall(r"`([^`\n]+)`", text):
        words = re.sub(r"=\S*", "", span.removeprefix("flawscope ")).split()
        if words and (
            words[0] in commands()
            or (span.startswith("flawscope ") and words[0].isalpha() and words[0].islower())
        ):
            yield words[0], {word for word in words[1:] if re.fullmatch(r"--[a-z][a-z-]+", word)}


def known_options(parser):
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from known_options(verb)


def test_every_command_and_option_that_is_named_exists():
    known = {name: {*known_options(parser_of(name))} for name in commands()}
    seen = 0
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES):
        for command, options in named_commands(page.read_text(encoding="utf-8")):
            assert command in known, f"{page.name}: flawscope {command}"
            assert options <= known[command], f"{page.name}: {command} {options - known[command]}"
            seen += len(options)
    assert seen > 100


def test_what_other_programs_are_called_with_exists():
    """Targets of make, scripts, extras, images and their files: calls that no test can run."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    stages = set(re.findall(r" AS (\w+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M))
    seen = dict.fromkeys(("make", "python", "pip", "docker"), 0)
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES):
        for line in command_lines(page.read_text(encoding="utf-8")):
            program, *words = line.split()
            seen[program] = seen.get(program, 0) + 1
            if program == "make" and words and words[0].isalpha():
                assert words[0] in targets, f"{page.name}: {line}"
            if program == "python":
                scripts = [word for word in words if word.endswith(".py")]
                assert all((ROOT / script).is_file() for script in scripts), f"{page.name}: {line}"
            if program == "pip":
                for folder, extras in re.findall(r"(\.(?:/[\w/]+)?)(?:\[([\w,]+)\])?(?=[\s\"]|$)", line):
                    project = ROOT / folder / "pyproject.toml"
                    assert project.is_file(), f"{page.name}: {line}"
                    known = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
                    wanted = {extra for extra in extras.split(",") if extra}
                    assert wanted <= known.get("optional-dependencies", {}).keys(), f"{page.name}: {line}"
            if program == "docker":
                assert set(re.findall(r"--target (\w+)", line)) <= stages, f"{page.name}: {line}"
                files = re.findall(r"-f (\S+)", line)
                assert all((ROOT / file).is_file() for file in files), f"{page.name}: {line}"
    assert all(seen[program] > 3 for program in ("make", "python", "pip", "docker"))


def test_the_page_on_commands_gets_every_option_of_the_library(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    made = drawing("options")
    sections = dict(re.findall(r"### (\S+)\n\n``` text\n(.*?)\n```", "\n".join(made.options()), re.S))
    assert list(sections) == list(COMMANDS)
    for command, text in sections.items():
        known = {option for action in parser_of(command)._actions for option in action.option_strings}
        shown = {option for option in known if re.search(rf"{option}\b", text)}
        assert known - shown <= {"-h", "--help", "--help-all", "--debug"}, command
    assert "<!-- options -->" in (DOCS / "command-line.md").read_text(encoding="utf-8")


def texts():
    """Every piece of text in the program's source, without docstrings, what is put into it, and the list of
    lines itself."""
    found = []
    for path in (path for house in HOUSES for path in (ROOT / house).rglob("*.py") if path.name != LIST):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        alone = {id(n.value) for n in nodes if isinstance(n, ast.Expr)}
        of_text = [n for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        found += [n.value for n in of_text if id(n) not in alone]
    return "\n".join(found)


def test_every_error_line_is_one_of_the_program():
    known, lines = texts(), error_lines()
    assert len(lines) > 15
    for line in lines:
        pieces = [piece.strip(" :;") for piece in line.split("...")]
        assert max(map(len, pieces)) > 6, line
        for piece in pieces:
            assert piece in known, f"{line}: {piece!r} is no text of the program"


def test_every_data_check_is_printed_by_the_program_and_stands_in_the_table():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    table = "\n".join(drawing("check_table").rows())
    names = {name: one for name, one in vars(data_checks).items() if isinstance(one, data_checks.DataCheck)}
    assert len(names) == len(data_checks.CHECKS) > 40
    for name, check in names.items():
        assert f"data_checks.{name}.coded(" in source, f"nobody prints {check.code}"
        assert f"| {check.code} | `{check.line[0]}`" in table
    assert "<!-- data checks -->" in (DOCS / "troubleshooting.md").read_text(encoding="utf-8")


def test_drawings_are_those_of_the_imports_and_of_the_results():
    packages, corrections = drawing(), drawing("draw_corrections")
    text = corrections.svg()
    marks = len(corrections.ROWS) * len(corrections.COLUMNS) + 1  # and the key
    assert text.count('<path class="right"') == marks
    for draw, drawn in ((packages, packages.svg()), (corrections, text)):
        assert draw.PICTURE.read_text(encoding="utf-8") == drawn, "run the script"
    methods = drawing("draw_methods")
    for name in registry.BUILT_IN:
        kept = (methods.IMAGES / f"{name}.svg").read_text(encoding="utf-8")
        assert kept == methods.svg(name), "run the script"


def test_the_architecture_has_a_line_for_every_package_from_the_ground_up():
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = page[page.index("## The packages") : page.index("## The way of a picture")]
    packages = re.findall(r"^\| `(\w+)` \| ", table, re.M)
    graph = drawing().arrows()
    assert sorted(packages) == sorted(graph)
    for package, below in graph.items():
        assert all(packages.index(other) < packages.index(package) for other in below), package
