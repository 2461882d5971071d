"""Attributes that code names by a string exist: `getattr(self, name) for name in ...`, `replace(x, **{...})`,
`{**vars(self), "x": 1}` of pickling, `deferred("module:name")`. A renaming by tool leaves them behind."""

from __future__ import annotations

import argparse
import ast
import builtins
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import flawscope
from flawscope import cli
from flawscope_station.store.schema import metadata

HOUSES = ("flawscope", "flawscope_station", "flawscope_line")
BY_NAME = {"getattr", "setattr", "hasattr", "delattr", "attrgetter", "__setattr__"}
REPLACING = {"replace", "_replace"}
NAMESPACE = re.compile(r"\b(args|call)\b")  # what the command line was given


class Use(NamedTuple):
    """Attributes that are named at a place. owner: the expression whose attributes they are."""

    place: str
    owner: str
    names: frozenset[str]
    classes: tuple[type, ...] | None  # None: not known here
    optional: bool  # with a value for where there is none: often of another library


class Module:
    """A module's code, and what its names stand for."""

    def __init__(self, name: str, text: str, scope: dict[str, Any]):
        self.name, self.tree, self.scope = name, ast.parse(text), scope
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                child.parent = node  # type: ignore[attr-defined]

    def uses(self) -> Iterator[Use]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield from self._uses_of_call(node)
            if isinstance(node, ast.FunctionDef) and node.name in ("__getstate__", "__setstate__"):
                yield from self._uses_of_pickling(node)

    def _uses_of_call(self, node: ast.Call) -> Iterator[Use]:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name == "attrgetter":
            for given in node.args:
                yield self._use(node, None, self._texts(given), optional=False)
        elif name in BY_NAME:
            yield self._use(node, node.args[0], self._texts(node.args[1]), optional=len(node.args) > 2)
        elif name in REPLACING and (given := [k.value for k in node.keywords if k.arg is None]):
            owner = node.func.value if name == "_replace" and isinstance(node.func, ast.Attribute) else None
            keys = frozenset(t for value in given for t in _literal_keys(value))
            yield self._use(node, owner or (node.args or [None])[0], keys, optional=False)
        elif name == "Namespace":
            values = [k.value for k in node.keywords if k.arg is None]
            keys = frozenset(t for value in values for t in _literal_keys(value))
            yield Use(self._place(node), "args", keys, (argparse.Namespace,), False)

    def _uses_of_pickling(self, node: ast.FunctionDef) -> Iterator[Use]:
        keys = {key for part in ast.walk(node) for key in _literal_keys(part)}
        for part in ast.walk(node):
            if (
                isinstance(part, ast.Call)
                and isinstance(part.func, ast.Attribute)
                and part.func.attr == "update"
            ):
                keys |= {k.arg for k in part.keywords if k.arg}
        yield self._use(node, ast.Name("self"), frozenset(keys), optional=False)

    def _use(self, node: ast.AST, owner: ast.expr | None, names: frozenset[str], *, optional: bool) -> Use:
        text = "" if owner is None else ast.unparse(owner)
        return Use(self._place(node), text, names, self._classes(node, text), optional)

    def _place(self, node: ast.AST) -> str:
        return f"{self.name}:{getattr(node, 'lineno', 0)}"

    def _texts(self, node: ast.expr) -> frozenset[str]:
        """The texts that an expression can be: itself, or what a loop around it takes from a literal or a
        constant. Empty where they are computed, such as by `dataclasses.fields`."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return frozenset([node.value])
        if not isinstance(node, ast.Name):
            return frozenset()
        for above in _ancestors(node):
            loops = getattr(above, "generators", [above] if isinstance(above, ast.For) else [])
            for loop in loops:
                targets = [t.id for t in ast.walk(loop.target) if isinstance(t, ast.Name)]
                if node.id in targets:
                    return self._items(loop.iter, targets.index(node.id), len(targets))
        return frozenset()

    def _items(self, node: ast.expr, index: int, count: int) -> frozenset[str]:
        scope = dict(self.scope)
        function = next((a for a in _ancestors(node) if isinstance(a, ast.FunctionDef)), None)
        for part in ast.walk(function) if function else ():
            if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
                with_value = _evaluate(part.value, scope)
                if with_value is not None:
                    scope[part.targets[0].id] = with_value
        values = _evaluate(node, scope)
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            return frozenset()
        rows = [value[index] if count > 1 else value for value in values]
        return frozenset(row for row in rows if isinstance(row, str))

    def _classes(self, node: ast.AST, owner: str) -> tuple[type, ...] | None:
        """The classes that an owner can have: of `self`, of an argument by its annotation."""
        if NAMESPACE.fullmatch(owner.split(".")[-1]) and "cli" in self.name.split("."):
            return (argparse.Namespace,)
        for above in _ancestors(node):
            if isinstance(above, ast.ClassDef) and owner == "self":
                return (self.scope[above.name],) if above.name in self.scope else None
            if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = (*above.args.posonlyargs, *above.args.args, *above.args.kwonlyargs)
                for argument in arguments:
                    if argument.arg == owner and argument.annotation is not None:
                        named = {n.id for n in ast.walk(argument.annotation) if isinstance(n, ast.Name)}
                        classes = [self.scope.get(n) for n in sorted(named)]
                        if all(isinstance(c, type) and c.__module__.startswith(HOUSES) for c in classes):
                            return tuple(c for c in classes if isinstance(c, type))
                        return None
        return None


def _evaluate(node: ast.expr, scope: dict[str, Any]) -> Any:
    """The value of an expression of constants; None where it needs more than these."""
    if any(
        isinstance(part, ast.Call) and getattr(part.func, "attr", "") != "items" for part in ast.walk(node)
    ):
        return None
    try:
        return eval(compile(ast.Expression(node), "<test>", "eval"), dict(scope))
    except Exception:
        return None


def _ancestors(node: ast.AST) -> Iterator[ast.AST]:
    while (node := getattr(node, "parent", None)) is not None:  # type: ignore[assignment]
        yield node


def _literal_keys(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Dict):
        yield from (k.value for k in node.keys if isinstance(k, ast.Constant) and isinstance(k.value, str))


def names_of(cls: type) -> set[str]:
    """Attributes of a class and of its objects."""
    found = set(dir(cls))
    for base in cls.__mro__:
        found |= inspect.get_annotations(base).keys()
        if base.__module__.startswith(HOUSES) and "<" not in base.__qualname__:
            try:
                text = inspect.getsource(base)
            except (OSError, TypeError):
                continue
            found |= set(re.findall(r"\bself\.(\w+)\b[^=\n(]*(?:: [^=\n]+)? = ", text))
    return found | {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else found


@pytest.fixture(scope="module")
def modules() -> list[ModuleType]:
    found = []
    for house in HOUSES:
        for info in pkgutil.walk_packages(importlib.import_module(house).__path__, f"{house}."):
            if info.name.endswith("__main__"):
                continue
            try:
                found.append(importlib.import_module(info.name))
            except ImportError:  # of a library that is not installed here
                continue
    return found


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Names under which the command line gives its options."""
    parsers = [cli.load_command(command)[0] for command in cli.commands().values()]
    return {action.dest for parser in parsers for action in parser._actions}


def wrong_names(uses: list[Use], everywhere: set[str], options: set[str]) -> list[str]:
    """Lines about names that are nowhere. everywhere: attributes of all classes, for owners of any class."""
    wrong = []
    for use in uses:
        if use.classes == (argparse.Namespace,):
            there = options
        elif use.classes is None or any(hasattr(c, "__getattr__") for c in use.classes):  # that asks others
            there = use.names if use.optional else everywhere
        else:
            there = set[str]().union(*map(names_of, use.classes))
        wrong += [f"{use.place}: {use.owner or 'nothing'} has no `{name}`" for name in use.names - there]
    return wrong


def test_attributes_that_are_named_by_a_string_exist(modules: list[ModuleType], options: set[str]) -> None:
    classes = {c for module in modules for c in vars(module).values() if isinstance(c, type)}
    by_name = {c.__name__: c for c in classes if c.__module__.startswith(HOUSES)}
    everywhere = set[str]().union(*map(names_of, by_name.values()), dir(builtins))
    everywhere |= {name for module in modules for name in vars(module)}
    everywhere |= {column.name for table in metadata.sorted_tables for column in table.columns}
    uses = [
        use
        for module in modules
        for use in Module(
            module.__name__, Path(str(module.__file__)).read_text("utf-8"), by_name | vars(module)
        ).uses()
    ]
    assert len(uses) > 80
    assert sum(use.classes is not None and bool(use.names) for use in uses) > 30
    # of other libraries
    everywhere |= {"strerror", "sched_getaffinity", "getloadavg", "_int_mm", "preload_dlls", "sync", "fchmod"}
    everywhere |= {"gnu_get_libc_version", "register_at_fork"}
    wrong = wrong_names(uses, everywhere, options)
    assert not wrong, "\n".join(wrong)


PLANTED = """
from dataclasses import replace
from operator import attrgetter

class Plain:
    def __init__(self):
        self.there = 1

    def __getstate__(self):
        return {**vars(self), "gone_pickled": None, "there": 2}

    def __setstate__(self, state):
        vars(self).update(state, gone_restored=1)

    def read(self):
        return [getattr(self, name) for name in ("there", "gone_read")], getattr(self, "gone_optional", None)

COLUMNS = {"there": 1, "gone_column": 2}

def work(given: Plain, other):
    object.__setattr__(given, "gone_set", 1)
    for name, value in COLUMNS.items():
        setattr(given, name, value)
    replace(given, **{"gone_replaced": 1})
    return getattr(other, "gone_anywhere"), attrgetter("gone_sorted"), getattr(other, "foreign", None)
"""


def test_a_planted_name_that_is_not_there_is_seen() -> None:
    class Plain:
        there = 1

    scope = {"Plain": Plain, "COLUMNS": {"there": 1, "gone_column": 2}}
    Plain.__module__ = "flawscope.planted"
    wrong = wrong_names(list(Module("planted", PLANTED, scope).uses()), {"there"}, set())
    names = {re.findall("`(.*?)`", line)[0] for line in wrong}
    kinds = "pickled restored read optional column set replaced anywhere sorted"
    assert names == {f"gone_{kind}" for kind in kinds.split()}


def test_functions_that_are_imported_when_they_are_called_exist() -> None:
    places = [
        node.args[0].value
        for house in HOUSES
        for path in Path(importlib.import_module(house).__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "deferred"
        and isinstance(node.args[0], ast.Constant)
    ]
    assert len(places) > 10
    for place in places:
        module, _, path = str(place).partition(":")
        value: Any = importlib.import_module(module)
        for name in path.split("."):
            value = getattr(value, name)
        assert callable(value), place
    for name in flawscope.__all__:
        assert getattr(flawscope, name) is not None
