"""Docstrings name what is there: attributes of a class, arguments of a function, `Class.attribute`.
Renaming by tool leaves such names behind, because they are text."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\s*((?:[a-z_]\w*)(?:(?:, | / )[a-z_]\w*)*): ")
SECTION = re.compile(r"^\s*(Args|Attributes|Raises|Returns|Yields|Example|Usage|Note|Source):\s*$")
REFERENCE = re.compile(r"`([A-Z]\w+)\.([a-z_]\w*)(?:\(\))?`")
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source:
    """The classes of all modules, with the names that each one has and inherits."""

    def __init__(self, modules):
        self.modules = modules
        self.classes: dict[str, list[ast.ClassDef]] = {}
        for tree in modules.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    self.classes.setdefault(node.name, []).append(node)

    def attributes(self, node, below=()):
        names = set(_defined_names(node))
        for base in node.bases:
            base = base.value if isinstance(base, ast.Subscript) else base
            name = base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
            if name not in below:
                for parent in self.classes.get(name, ()):
                    names |= self.attributes(parent, (*below, node.name))
        return names

    def is_foreign(self, node):
        """Whether it inherits from a class of another library, whose names are not known here."""
        plain = {"NamedTuple", "Protocol", "Generic", "ABC", "Enum", "StrEnum", "Exception", "object"}
        names = [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
        return any(
            name not in plain and (name not in self.classes or any(map(self.is_foreign, self.classes[name])))
            for name in names
        )

    def stale_names(self):
        """Lines with the place and the name that is not there."""
        for path, tree in self.modules.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef | Function | ast.Module):
                    for name in self._stale_of(node):
                        title = "the module" if isinstance(node, ast.Module) else node.name
                        yield f"{path}: {title} documents `{name}`, which is not there"

    def _stale_of(self, node):
        text = ast.get_docstring(node) or ""
        if not isinstance(node, ast.Module):
            is_class = isinstance(node, ast.ClassDef)
            there = self.attributes(node) if is_class else _parameters(node)
            yield from (name for name in _rows(text, function=not is_class) if name not in there)
        for cls, name in REFERENCE.findall(text):
            classes = self.classes.get(cls, [])
            if classes and not any(self.is_foreign(c) or name in self.attributes(c) for c in classes):
                yield f"{cls}.{name}"


def _defined_names(node):
    """Names of a class's fields, methods, `self.name` and arguments of `__init__`."""
    for part in ast.walk(node):
        match part:
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=targets):
                yield from (n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                yield name
            case ast.Call(func=ast.Attribute(attr="register_buffer"), args=[ast.Constant(value=name), *_]):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
                if name == "__init__":
                    yield from _parameters(part)


def _parameters(function):
    a = function.args
    return {p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if p is not None}


def _rows(text, *, function):
    """Names before a colon: of a function those below `Args:`, of a class those outside other sections."""
    section = ""
    for line in text.split("\n")[1:]:
        if heading := SECTION.match(line):
            section = heading.group(1)
        elif (row := ROW.match(line)) and section in (("Args",) if function else ("", "Args", "Attributes")):
            yield from re.split(", | / ", row.group(1))


def test_every_name_in_a_docstring_is_there():
    modules = {
        str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8"))
        for house in ("src", "station/src", "line/src")
        for path in sorted((ROOT / house).rglob("*.py"))
    }
    assert len(modules) > 100
    stale = list(Source(modules).stale_names())
    assert not stale, "\n".join(stale)


PLANTED = '''
class Base:
    shared: int = 0

class Record(Base):
    """A record; see `Record.gone_method`, `Record.work` and `Record.shared`.

    size, lost: the first is there.
    shared: inherited.

    Attributes:
        missing: not there.
        made: there.
    Raises:
        whatever: is no attribute.
    """
    size: int

    def work(self, given: int) -> None:
        """Works.

        Args:
            given: there.
            renamed: not there.
        Returns:
            text: is no argument.
        """
        self.made = given
'''


def test_a_planted_name_that_is_not_there_is_seen():
    stale = list(Source({"planted.py": ast.parse(PLANTED)}).stale_names())
    names = {re.findall("`(.*?)`", line)[0] for line in stale}
    assert names == {"lost", "missing", "renamed", "Record.gone_method"}
