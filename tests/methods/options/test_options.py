"""The options of a fit are one record each, which all loops read."""

import argparse
import ast
from dataclasses import fields
from pathlib import Path

import pytest

import flawscope
from flawscope import fitting
from flawscope.cli import benchmark, fit_one, fit_options
from flawscope.cli.fit_options import _actions as actions
from flawscope.fitting.preparation import pop_options
from flawscope.methods.options.arguments import ARGUMENTS, Learning, Reading, Seeing
from flawscope.methods.options.record import ARGUMENT, CALL, RECORD, SETTING, SWITCH, records_of
from flawscope.methods.options.table import BENCHMARK, FIT_OPTIONS

FITTING = Path(fitting.__file__).parent
OPTIONS = {option.name: option for option in FIT_OPTIONS}


def test_each_option_has_one_record_and_each_record_is_an_option():
    assert len(OPTIONS) == len(FIT_OPTIONS)
    others = {name for name in actions() if name not in OPTIONS}
    assert others == {flag.removeprefix("--").replace("-", "_") for flag in fit_options._method_flags()}
    assert OPTIONS.keys() - actions().keys() == {"debug"}  # of all commands
    own = {one.name for of in ARGUMENTS for one in fields(of) if RECORD not in one.metadata}
    assert own == {"checkpoint"}  # of Python alone


def test_an_option_that_changes_the_input_is_stored_and_kept_by_an_update():
    """A model that forgot one would be trained anew, or extended, on pictures that it sees otherwise."""
    for option in FIT_OPTIONS:
        assert option.is_stored or not option.changes_input, option.name
        if option.changes_input and option.role != SETTING:
            assert option.kept_by_update, option.name


def test_a_benchmark_has_the_options_that_their_records_say():
    """By the loop of a fit's: no argument of `fit` and no setting is added beside it."""
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    own = OPTIONS.keys() & {action.dest for action in parser._actions}
    assert own >= {option.name for option in BENCHMARK}
    assert all(OPTIONS[name].benchmark or OPTIONS[name].role == CALL for name in own)


def test_what_an_option_excludes_or_needs_is_an_option_or_a_setting():
    for option in FIT_OPTIONS:
        for other in (*option.apart, *option.chooses, *(option.needs or ())[:1]):
            assert other in OPTIONS or other in fit_options._settings(), (option.name, other)


ALL = [option.name for option in FIT_OPTIONS if option.role == ARGUMENT]
KEPT = [option.name for option in FIT_OPTIONS if option.kept_by_update]


def call_with(name, value):
    """A call that gives one option."""
    values = dict.fromkeys(actions()) | {"data": "pictures", "set": [], "typed": (), "filed": ()}
    return fit_options.argparse.Namespace(**{**values, name: value})


@pytest.mark.parametrize("name", ALL)
def test_an_option_is_handed_on_by_a_fit(name):
    """Forgotten it would be accepted, and do nothing."""
    option = OPTIONS[name]
    args = call_with(name, option.value == SWITCH or "turn")
    settings = fit_one.FitSettings("patchcore", "default", args.seen, {})
    given = fit_one.fit_arguments(args, settings)
    assert given[option.argument] == (option.switched if option.value == SWITCH else "turn")
    assert option.value != SWITCH or option.switched != option.default


def test_a_fit_reads_each_of_its_arguments():
    """Forgotten in the fit itself it would be handed on, and do nothing."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in FITTING.rglob("*.py")]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {one.name for arguments in ARGUMENTS for one in fields(arguments)} <= read


@pytest.mark.parametrize("name", KEPT)
def test_an_option_that_an_update_keeps_is_refused_by_it(name):
    args = call_with(name, "turn")
    args.update = "model.safetensors"
    with pytest.raises(flawscope.InputError, match=f"leave out {fit_options.flag_of(name)}"):
        fit_one.read_fit_settings(args)


def test_arguments_of_a_wrong_type_are_refused_by_their_names():
    for arguments in ARGUMENTS:
        for option in records_of(arguments):
            with pytest.raises(flawscope.InputError, match=f"^{option.argument} is a dict; give "):
                pop_options(arguments, {option.argument: {}})
    assert pop_options(Seeing, given := {"align": "turn", "size": 64}) == Seeing(align="turn")
    assert given == {"size": 64}
    assert pop_options(Reading, {}) == Reading()
    assert pop_options(Learning, {"samples": 0}).samples == 0
