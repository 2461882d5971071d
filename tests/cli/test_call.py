"""Calls: what is asked for, how a wrong one is told, and the exit codes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flawscope
from flawscope import errors
from flawscope._version import __version__
from flawscope.cli import commands, main, models
from flawscope.cli.common import format_table
from flawscope.errors import FlawscopeError, InputError


def shell(code, **settings):
    """A process that runs this with `main` at hand."""
    words = [sys.executable, "-c", f"import sys\nfrom flawscope.cli import main, models\n{code}"]
    return subprocess.run(words, stderr=subprocess.PIPE, text=True, timeout=120, **settings)


def one_line(found):
    """The error: exactly one line on stderr, nothing on stdout."""
    _, printed, said = found
    assert printed == ""
    assert said.startswith("flawscope: ")
    assert said.count("\n") == 1
    return said


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


FIT = ["fit", "--data", "DATA", "--out", "OUT.safetensors"]
BENCHMARK = ["benchmark", "--data", "DATA", "--out", "OUT"]
EAD, PRN = ["--method", "efficientad"], ["--method", "prnet"]
WRONG = [
    (["evalute"], "did you mean evaluate?"),
    # options: also before a required one is missed, and abbreviations are none
    (["fit", "--dat", "x", "--out", "m.safetensors"], "did you mean --data?"),
    (["evaluate", "m", "--data", "x", "--full-res"], "did you mean --full-resolution?"),
    ([*BENCHMARK, "--method", "patchcore"], "did you mean --methods?"),
    (["fit"], "required: --data"),
    (["fit", "--data", "pictures"], "give --out MODEL"),
    (["predict", "m"], "required: PICTURE"),
    (["info", "m", "extra"], "extra"),
    # values
    (["data", "chek", "--data", "x"], "chek"),
    (["predict", "m", "a.png", "--false-alarm-rate", "5"], "write 0.05 or 5%;"),
    (["predict", "m", "a.png", "--false-alarm-rate", "nan"], "is not a rate"),
    ([*FIT, *EAD, "--minutes", "0"], "write 30 or 0.5"),
    ([*FIT, *EAD, "--steps", "2", "--minutes", "3"], "not allowed with argument"),
    ([*FIT, *EAD, "--steps", "many"], "--steps: 'many' is not a whole number"),
    (["demo", "--only-draw", "--out", "OUT", "--category", "plates"], "choose of plate"),
    (["review", "OUT", "--port", "99999"], "write 0 to 65535"),
    # files
    (["predict", "m", "-", "new"], "- stands alone"),
    (["info", "no/model.safetensors"], "there is no model no/model.safetensors"),
    (["info", "."], "folder"),
    (["predict", "no.safetensors", "no.png"], "no such file"),
    (["predict", "m", "PICTURES", "--maps", "tiff"], "--maps has nothing to write to"),
    (["predict", "m", "PICTURES", "--out", "no/x.csv"], "there is no folder"),
    (["predict", "m", "PICTURES", "--out", "MODEL/sub"], "--out"),
    (["evaluate", "no.safetensors", "--data", "."], "there is no model"),
    (["evaluate", "MODEL", "--data", "PICTURES"], "no test pictures"),
    (["evaluate", "MODEL", "--data", "DATA", "--category", "plate,"], "give the folder"),
    (["evaluate", ".", "--data", "DATA", "--category", "plate,", "--out", "x.parquet"], "FILE.csv"),
    (["predict", "m", "PICTURES", "--out", "x.parquet"], "tables are FILE.csv"),
    (["evaluate", "MODEL", "--data", "DATA", "--out", "X.PARQUET"], "tables are FILE.csv"),
    (["calibrate", "m.safetensors", "--good", ".", "--out", "no/m.safetensors"], "no folder"),
    (["calibrate", "m.safetensors", "--good", ".", "--out", "m.onnx"], "should end in .safetensors"),
    (["calibrate", "MODEL", "--good", "PICTURES", "--out", "OUT.safetensors"], "has not seen"),
    (["data", "check", "--data", "DATA", "--out", "OUT"], "should end in .html"),
    # settings; what they may be is tested with the methods
    ([*FIT, "--set", "ratoi=0.1"], "did you mean ratio"),
    ([*FIT, "--size", "large"], "size"),
    ([*FIT, "--group", "("], "--group"),
    ([*FIT, "--group", "xyz"], "matches no file name"),
    ([*FIT, "--device", "gpu"], "cpu"),
    ([*FIT, "--backbone", "resnet9000"], "resnet9000"),
    ([*FIT, "--config", "no.yaml"], "no.yaml"),
    ([*FIT, "--roi", "no.png"], "no.png"),
    ([*FIT, "--update", "no.safetensors"], "there is no model"),
    ([*FIT, "--update", "MODEL", "--size", "64"], "leave out --size"),
    ([*FIT, "--fair"], "--fair is for --update: leave it out"),
    ([*FIT, "--minutes", "3"], "patchcore does not learn in steps"),
    ([*FIT, "--resume"], "patchcore does not learn in steps"),
    ([*FIT, "--seen", "2"], "patchcore learns from good pictures only"),
    ([*FIT, "--set", "textures=x"], "leave it out, or take prnet"),
    ([*FIT, *EAD, "--backbone", "resnet18"], "efficientad has no backbone"),
    ([*FIT, *EAD, "--set", "teacher=nowhere.safetensors"], "there is no teacher nowhere.safetensors"),
    ([*FIT, *EAD, "--drop-suspects"], "--method patchcore --drop-suspects"),
    ([*FIT, *PRN, "--size", "64", "--seen", "500"], "cannot draw 500 seen defects"),
    ([*FIT, *PRN, "--size", "64", "--seen", "nowhere"], "neither a number, a folder nor a list"),
    ([*FIT[:-1], "OUT", "--category", "plate,plat"], "did you mean plate?"),
    ([*FIT, "--category", "plate,"], "give --out a folder instead of"),
    ([*FIT[:-1], "OUT", "--category", "plate,", "--update", "x.safetensors"], "--update adds to one model"),
    ([*FIT[:-1], "OUT", "--category", "plate,", "--set", "ratoi=0.1"], "did you mean ratio?"),
]


@pytest.mark.parametrize(("words", "match"), WRONG, ids=lambda value: str(value)[:60])
def test_a_wrong_call_is_one_line_with_exit_code_2_and_leaves_nothing(
    words, match, run, drawn, model_path, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    places = {"DATA": drawn, "PICTURES": drawn / "plate/train/good", "MODEL": model_path}
    quiet = [] if words[0] in ("evalute", "info") or len(words) < 3 else ["--quiet"]
    words = [re.sub(r"^(DATA|PICTURES|MODEL)(?=/|$)", lambda m: str(places[m[1]]), word) for word in words]
    found = run(*words, *quiet)
    assert found[0] == 2
    assert match in one_line(found)
    assert list(tmp_path.iterdir()) == []


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


def test_tables_are_aligned_and_numbers_stand_right():
    text = format_table([("a", 1, "x"), ("bcd", 22, None), ("e", "n/a", "y")], ("name", "n", "t"))
    assert text.splitlines() == ["name    n  t", "----  ---  -", "a       1  x", "bcd    22", "e     n/a  y"]
    assert format_table([], ("a", "b")).splitlines()[0] == "a  b"


def test_a_closed_pipe_is_no_traceback(drawn):
    """`flawscope data check ... | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    words = ["data", "check", "--data", str(drawn), "--no-near", "--quiet"]
    try:
        done = shell(f"sys.exit(main({words!r}))", stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--version"], ["info", "MODEL", "--json"]], ids=lambda words: words[0])
def test_a_full_disk_behind_stdout_is_one_line(words, unbuffered, model_path):
    words = [str(model_path) if word == "MODEL" else word for word in words]
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = shell(f"sys.exit(main({words!r}))", stdout=full, env=env)
    text = "cannot write the output: No space left on device; free some space or send it elsewhere"
    assert (done.returncode, done.stderr) == (1, f"flawscope: {text}\n")


def test_the_module_is_the_command_and_a_closed_stdout_is_no_error():
    words = [sys.executable, "-m", "flawscope", "predct"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = shell("sys.stdout = None; sys.exit(main(['--version']))")
    assert (done.returncode, done.stderr) == (0, "")


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
    for words in (["fit"], ["fit", "--update", model_path]):
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
    assert text.startswith('pip install ".[train,export]"')
    assert f"\n$ {text.partition(' in ')[0]}\n" in (root / "README.md").read_text(encoding="utf-8")
    of_the_line = errors.install_command("pymodbus", extras="plc", package="flawscope-line")
    assert of_the_line.startswith('pip install "./line[plc]"')
    assert errors.install_command("lib", extras="x", package="flawscope-plugin") == "pip install lib"
    files = [*(root / "src").rglob("*.py"), *root.glob("docs/*.md"), root / "README.md"]
    hint = re.compile(r"pip install (-\S+ )*['\"]?flawscope")
    assert not [path for path in files if hint.search(path.read_text(encoding="utf-8"))]
