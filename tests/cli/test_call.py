"""Calls: what is asked for, how a wrong one is told, and the exit codes."""

import argparse
import re
import sys
from pathlib import Path

import pytest

import flawscope
from call_helpers import EAD, PRN, one_line
from flawscope import errors
from flawscope._version import __version__
from flawscope.cli import main, models, predict, program
from flawscope.cli.common import format_table, prepare_output_folder
from flawscope.cli.program import COMMANDS, commands, load_command
from flawscope.errors import FlawscopeError, InputError


def test_help_lists_every_command_and_a_call_of_nothing_shows_it(run):
    for words, code in ((["--help"], 0), (["-h"], 0), (["help"], 0), ([], 2)):
        found, printed, _ = run(*words)
        assert found == code
        for name, command in commands().items():
            assert re.search(rf"^  {name} +{re.escape(command.help)}$", printed, re.M)
    for word in ("--version", "-V"):
        assert run(word)[:2] == (0, f"flawscope {__version__}\n")


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_that_fits_a_terminal(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"flawscope {command}" in printed
    assert "--debug" in printed
    assert "%%" not in printed
    assert len(printed.splitlines()) > 6


def help_texts(parser):
    """What the help of a command and of each of its sub-commands says of each option."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from (one.help for one in action._choices_actions)
            for verb in action.choices.values():
                yield from help_texts(verb)
        elif action.help != argparse.SUPPRESS:
            yield action.help


@pytest.mark.parametrize("command", commands())
def test_help_of_every_option_is_a_sentence(command):
    parser, _ = load_command(commands()[command])
    for text in help_texts(parser):
        assert text[0].isupper(), text
        assert text.endswith("."), text


def test_commands_stand_in_groups_in_the_order_of_use(run):
    printed = run("--help")[1]
    titles = [line for line in printed.splitlines() if line.endswith(":") and " " not in line]
    assert titles == ["begin:", "learn:", "measure:", "inspect:", "models:"]
    assert [*COMMANDS].index("data") < [*COMMANDS].index("fit") < [*COMMANDS].index("predict")


def test_a_file_that_begins_with_a_dash_is_told_how_to_be_written(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-dash.png").touch()
    remedy = "-dash.png would be an option; the file of this name is ./-dash.png;"
    assert remedy in one_line(run("predict", "m", "-dash.png"))
    assert "there is no model m" in one_line(run("predict", "m", "--", "-dash.png"))


ERRORS = [
    (InputError("two\nlines\t here"), 2, "two lines here"),
    (FlawscopeError("the disk is full: free some space"), 1, "the disk is full"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (MemoryError(), 1, "not enough memory"),
    (ZeroDivisionError("so\nodd"), 1, "unexpected ZeroDivisionError: so odd; --debug shows where"),
    (OSError(28, "No space left on device"), 1, "No space left on device"),
    (
        PermissionError(13, "Permission denied", "/secret-of-nobody/good/results.csv"),
        2,
        "flawscope: /: Permission denied; give this user the rights to it",
    ),
]


@pytest.mark.parametrize(("error", "code", "text"), ERRORS, ids=lambda v: type(v).__name__)
def test_every_error_is_one_line_with_its_exit_code(run, monkeypatch, error, code, text):
    def failing(args):
        raise error

    monkeypatch.setattr(models, "info", failing)
    found = run("info", "m")
    assert found[0] == code
    assert text in one_line(found)
    if isinstance(error, Exception):
        found, _, said = run("info", "m", "--debug")
        assert (found, "Traceback" in said, "in failing" in said) == (code, True, True)
        assert text.partition(";")[0] in said.splitlines()[-1]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), InputError("wrong")], ids=lambda one: type(one).__name__
)
def test_a_call_that_ends_early_leaves_no_empty_folder_that_it_made(run, monkeypatch, tmp_path, error):
    def failing(args):
        prepare_output_folder(args.out)
        (tmp_path / "kept" / "half.png").touch()
        raise error

    monkeypatch.setattr(predict, "run", failing)
    (tmp_path / "there").mkdir()
    (tmp_path / "kept").mkdir()
    for folder in ("new", "deep/new", "there", "kept"):
        run("predict", "m", "a.png", "--out", tmp_path / folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["half.png", "kept", "there"]


@pytest.mark.parametrize("category", ["zz", "plate,zz"])
def test_a_joint_model_of_a_product_that_is_not_there_is_one_line(run, drawn, tmp_path, category):
    out = tmp_path / "joint.safetensors"
    found = run("fit", "--joint", "--data", drawn, "--category", category, "--out", out)
    assert found[0] == 2
    assert re.search(r"no category zz|none of --category zz is there", one_line(found))
    assert [*tmp_path.iterdir()] == []


def test_tables_are_aligned_and_numbers_stand_right():
    text = format_table([("a", 1, "x"), ("bcd", 22, None), ("e", "n/a", "y")], ("name", "n", "t"))
    assert text.splitlines() == ["name    n  t", "----  ---  -", "a       1  x", "bcd    22", "e     n/a  y"]
    assert format_table([], ("a", "b")).splitlines()[0] == "a  b"


@pytest.fixture
def core(monkeypatch):
    """As if torch were not installed, and nothing of it had been asked for."""
    for name in [name for name in sys.modules if name.startswith("flawscope.fitting")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)


def test_without_torch_whatever_fits_says_what_to_add_and_wrong_settings_are_told(
    run, core, drawn, model_path, tmp_path
):
    rest = ["--data", drawn, "--out", tmp_path / "new.safetensors", "--quiet"]
    for words in (["fit"], ["fit", "--update", model_path], ["benchmark"]):
        found = run(*words, *rest)
        assert found[0] == 2
        assert one_line(found).startswith("flawscope: fitting needs torch: pip install ")
    with pytest.raises(InputError, match=r"^fitting needs torch: pip install "):
        flawscope.fit("pictures")
    for words in (["fit", *EAD], ["fit", *PRN]):
        assert "--size" in one_line(run(*words, *rest, "--size", "100"))


def test_the_hint_is_what_the_readme_types_and_never_the_package():
    """Whose name on an index may be somebody else's."""
    root = Path(flawscope.__file__).parents[2]
    text = errors.install_command("torch", extras="train,export")
    assert text.startswith('pip install ./weights ".[train,export]"')
    assert f"\n$ {text.partition(' in ')[0]}\n" in (root / "README.md").read_text(encoding="utf-8")
    assert (
        errors.install_command(package="flawscope-weights") == "pip install ./weights in flawscope's checkout"
    )
    of_the_line = errors.install_command("pymodbus", extras="plc", package="flawscope-line")
    assert of_the_line.startswith('pip install "./line[plc]"')
    assert errors.install_command("lib", extras="x", package="flawscope-plugin") == "pip install lib"
    files = [*(root / "src").rglob("*.py"), *root.glob("docs/*.md"), root / "README.md"]
    hint = re.compile(r"pip install (-\S+ )*['\"]?flawscope")
    assert not [path for path in files if hint.search(path.read_text(encoding="utf-8"))]


def test_what_is_installed_from_a_wheel_speaks_of_no_checkout(monkeypatch):
    monkeypatch.setattr(errors, "runs_from_checkout", lambda: False)
    text = errors.install_command("torch", extras="train")
    assert text == 'pip install "flawscope[train]", from where flawscope came from'
    text = errors.install_command(package="flawscope-station")
    assert text == 'pip install "flawscope-station", from where flawscope came from'


@pytest.mark.parametrize(
    ("word", "meant"), [("train", "fit"), ("learn", "fit"), ("test", "evaluate"), ("check", "data check")]
)
def test_words_for_a_command_lead_to_it(run, word, meant):
    assert f"there is no command {word}: did you mean {meant}?" in one_line(run(word, "--data", "x"))


def test_words_that_are_meant_name_commands():
    known = {*commands(), *program.PACKAGE_OF_COMMAND}
    for meant in program.SYNONYMS.values():
        assert meant.split()[0] in known
    assert not known & {*program.SYNONYMS}


@pytest.mark.parametrize(("name", "package"), program.PACKAGE_OF_COMMAND.items())
def test_a_command_that_is_not_installed_names_its_package(run, monkeypatch, name, package):
    monkeypatch.setattr(program, "_load_package_commands", dict)
    line = one_line(run(name))
    assert f"{name} is a command of {package}, which is not installed" in line
    assert errors.SOURCE_FOLDERS[package] in line


def test_data_names_its_one_verb(run):
    assert "the following arguments are required: check" in one_line(run("data"))
    assert "export" not in commands()["data"].help
