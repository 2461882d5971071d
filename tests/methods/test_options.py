"""The options of a fit are one record each, which all loops read."""

import ast
import inspect
from dataclasses import fields
from pathlib import Path

import pytest

import flawscope
from flawscope.cli import fit_one, fit_options
from flawscope.cli.fit_options import _actions as actions
from flawscope.fitting import stored_options
from flawscope.fitting.preparation import Reading, Seeing
from flawscope.methods.options import FIT_OPTIONS, READING, SEEING, SETTING, names_of

OPTIONS = {option.name: option for option in FIT_OPTIONS}
# Words of a data set or of a method that are in lists of other things, too
COMMON_WORDS = {"category", "group", "part", "view", "device", "seen", "channels", "force", "roi"}


def test_each_option_has_one_record_and_each_record_is_an_option():
    assert len(OPTIONS) == len(FIT_OPTIONS)
    assert {one.name for one in fields(Seeing)} == {*names_of(SEEING)}
    assert {one.name for one in fields(Reading)} == {*names_of(READING)}
    methods = {name for name in actions() if name not in OPTIONS}
    assert methods == {flag.removeprefix("--").replace("-", "_") for flag in fit_options._method_flags()}
    assert OPTIONS.keys() - actions().keys() == {"debug"}  # of all commands


def test_an_option_that_changes_the_input_is_stored_and_kept_by_an_update():
    """A model that forgot one would be trained anew, or extended, on pictures that it sees otherwise."""
    for option in FIT_OPTIONS:
        assert option.stored_as or not option.changes_input, option.name
        if option.changes_input and option.of != SETTING:
            assert option.kept_by_update, option.name


def test_what_is_stored_is_read_again():
    tree = ast.parse(inspect.getsource(stored_options))
    calls = [one for one in ast.walk(tree) if isinstance(one, ast.Call)]
    read = {
        one.arg for call in calls if ast.unparse(call.func) in ("Seeing", "Reading") for one in call.keywords
    }
    stored = {name for name in names_of(SEEING, READING) if OPTIONS[name].stored_as not in ("", "config")}
    assert read == stored


def test_what_an_option_excludes_or_needs_is_an_option_or_a_setting():
    for option in FIT_OPTIONS:
        for other in (*option.apart, *(option.needs or ())[:1]):
            assert other in OPTIONS or other in fit_options._settings(), (option.name, other)


@pytest.mark.parametrize("name", [*names_of(SEEING), *names_of(kept_by_update=True)])
def test_an_option_is_handed_on_by_a_fit_and_refused_by_an_update(name, monkeypatch):
    """Forgotten in either it would be accepted, and do nothing."""
    values = dict.fromkeys(actions()) | {"data": "pictures", "set": [], "typed": (), "filed": ()}
    args = fit_options.argparse.Namespace(**{**values, name: "turn"})
    if name in names_of(SEEING):
        settings = fit_one.FitSettings("patchcore", "default", 0, {})
        assert fit_one.picture_options(args, settings)[name] == "turn"
    args.update = "model.safetensors"
    with pytest.raises(flawscope.InputError, match=f"leave out {fit_options.flag_of(name)}"):
        fit_one.read_fit_settings(args)


def test_no_option_stands_in_a_second_list():
    """Three words of an option's record together in one literal elsewhere are a list of options."""
    words = {*names_of(SEEING, READING)} - COMMON_WORDS
    root, lists = Path(flawscope.__file__).parent, {}
    for path in sorted(root.rglob("*.py")):
        if path.name == "options.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                named = {one.value for one in node.elts if isinstance(one, ast.Constant)} & words
            elif isinstance(node, ast.Dict):
                named = {one.value for one in node.keys if isinstance(one, ast.Constant)} & words
            else:
                continue
            if len(named) > 2:
                lists[f"{path.relative_to(root)}:{node.lineno}"] = sorted(named)
    assert lists == {}
