"""Calls: what is asked for, how a wrong one is told, and the exit codes."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flawscope
from flawscope import cli, errors
from flawscope._version import __version__
from flawscope.cli import commands, main
from flawscope.cli.common import rate, table
from flawscope.errors import FlawscopeError, InputError

Capture = pytest.CaptureFixture[str]


def one_line(capsys: Capture) -> str:
    """The error: exactly one line on stderr, nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("flawscope: ")
    assert captured.err.count("\n") == 1
    return captured.err


def shell(*argv: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flawscope", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **settings)


# ---------------------------------------------------------------------------------------------------- help


def test_help_lists_every_command(capsys: Capture) -> None:
    for argv in (["--help"], ["-h"], ["help"]):
        assert main(argv) == 0
        out = capsys.readouterr().out
        for name, command in commands().items():
            assert re.search(rf"^  {name} +{re.escape(command.help)}$", out, re.M)


def test_without_a_command_help_is_shown_and_the_call_is_wrong(capsys: Capture) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().out


def test_version(capsys: Capture) -> None:
    for argv in (["--version"], ["-V"]):
        assert main(argv) == 0
        assert capsys.readouterr().out == f"flawscope {__version__}\n"


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_that_fits_a_terminal(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"flawscope {command}" in out
    assert "--debug" in out
    assert "%%" not in out
    assert len(out.splitlines()) > 6


# ------------------------------------------------------------------------------------------------ bad calls


@pytest.mark.parametrize(
    ("typed", "meant"), [("evalute", "evaluate"), ("predct", "predict"), ("calibrat", "calibrate")]
)
def test_an_unknown_command_names_the_nearest(typed: str, meant: str, capsys: Capture) -> None:
    assert main([typed]) == 2
    assert f"did you mean {meant}?" in one_line(capsys)


def test_an_unknown_command_near_to_nothing_points_to_help(capsys: Capture) -> None:
    assert main(["zzz"]) == 2
    assert "flawscope --help" in one_line(capsys)


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["fit", "--dat", "x", "--out", "m.safetensors"], "--data"),
        (["fit", "--data", "x", "--outt=m.safetensors"], "--out"),
        (["evaluate", "m", "--data", "x", "--full-res"], "--full-resolution"),
        (["predict", "m", "a.png", "--fail_on_anomaly"], "--fail-on-anomaly"),
        (["info", "m", "--selftest"], "--self-test"),
    ],
)
def test_an_unknown_option_names_the_nearest(argv: list[str], meant: str, capsys: Capture) -> None:
    """Also before a required one is missed, and abbreviations are none."""
    assert main(argv) == 2
    assert f"did you mean {meant}?" in one_line(capsys)


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["fit"], "required: --data, --out"),
        (["predict", "m"], "required: PICTURE"),
        (["info", "m", "extra"], "extra"),
        (["fit", "--data", "x", "--out"], "--out"),
        (["data", "chek", "--data", "x"], "chek"),
        (["predict", "m", "-", "new"], "- stands alone"),
        (["predict", "m", "a.png", "--false-alarm-rate", "5"], "write 0.05 or 5%;"),
        (["predict", "m", "a.png", "--false-alarm-rate", "nan"], "is not a rate"),
        (["predict", "m", "a.png", "--false-alarm-rate", "0%"], "is not a rate"),
        (["info", "no/model.safetensors"], "there is no model no/model.safetensors"),
        (["info", "."], "folder"),
        (["predict", "no.safetensors", "no.png"], "no such file"),
        (["evaluate", "no.safetensors", "--data", "."], "there is no model"),
        (["calibrate", "m.safetensors", "--good", ".", "--out", "no/m.safetensors"], "no folder"),
        (["calibrate", "m.safetensors", "--good", ".", "--out", "m.onnx"], "should end in .safetensors"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(argv: list[str], match: str, capsys: Capture) -> None:
    assert main(argv) == 2
    assert match in one_line(capsys)


def test_a_file_that_begins_with_a_dash_is_told_how_to_be_written(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-dash.png").touch()
    assert main(["predict", "m", "-dash.png"]) == 2
    assert "-dash.png would be an option; the file of this name is ./-dash.png;" in one_line(capsys)
    assert main(["predict", "m", "--", "-dash.png"]) == 2
    assert "there is no model m" in one_line(capsys)


@pytest.mark.parametrize("place", ["import_module", "Parser"])
def test_an_interrupt_while_a_command_is_loaded_is_one_line(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib if place == "import_module" else cli, place, interrupted)
    assert main(["info", "m"]) == 130
    assert "interrupted" in one_line(capsys)


@pytest.mark.parametrize(("text", "value"), [("0.05", 0.05), ("5%", 0.05), ("0.5%", 0.005), ("1e-3", 0.001)])
def test_rates_are_shares_or_percent(text: str, value: float) -> None:
    assert rate(text) == pytest.approx(value)


# ------------------------------------------------------------------------------------------- codes and lines


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """failing(error): `flawscope info` raises it."""
    from flawscope.cli import models

    def make(error: BaseException) -> None:
        def run(args: Any) -> int:
            """Fail."""
            raise error

        monkeypatch.setattr(models, "info", run)

    return make


ERRORS = [
    (InputError("the file is wrong: mend it"), 2, "the file is wrong: mend it"),
    (InputError("two\nlines\t here"), 2, "two lines here"),
    (FlawscopeError("the disk is full: free some space"), 1, "the disk is full"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (MemoryError(), 1, "not enough memory"),
    (ZeroDivisionError("so\nodd"), 1, "unexpected ZeroDivisionError: so odd; --debug shows where"),
    (OSError(28, "No space left on device"), 1, "No space left on device"),
    (RecursionError("deep"), 1, "unexpected RecursionError"),
]


@pytest.mark.parametrize(("error", "code", "text"), ERRORS, ids=lambda v: type(v).__name__)
def test_every_error_is_one_line_with_its_exit_code(
    failing: Any, capsys: Capture, error: BaseException, code: int, text: str
) -> None:
    failing(error)
    assert main(["info", "m"]) == code
    assert text in one_line(capsys)


@pytest.mark.parametrize(("error", "code", "text"), ERRORS[:3], ids=lambda v: type(v).__name__)
def test_debug_adds_the_traceback_and_keeps_the_line(
    failing: Any, capsys: Capture, error: BaseException, code: int, text: str
) -> None:
    failing(error)
    assert main(["info", "m", "--debug"]) == code
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "in run" in err
    assert text in err.splitlines()[-1]


def test_an_interrupt_on_a_real_terminal_ends_with_130() -> None:
    code = """
import sys, flawscope.cli as cli, flawscope.cli.models as models
models.info = lambda args: (_ for _ in ()).throw(KeyboardInterrupt())
sys.exit(cli.main(["info", "m"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert done.stderr.count("\n") == 1


# --------------------------------------------------------------------------------------------- the real world


def test_a_closed_pipe_is_no_traceback(drawn: Path) -> None:
    """`flawscope data check ... | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-m", "flawscope", "data", "check", "--data", str(drawn), "--no-near", "--quiet"]
    try:
        done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "argv",
    [
        ["--version"],
        ["info", "MODEL", "--json"],
        ["data", "check", "--data", "DATA", "--no-near", "--quiet"],
    ],
    ids=lambda argv: argv[0],
)
def test_a_full_disk_behind_stdout_is_one_line(
    argv: list[str], unbuffered: str, drawn: Path, model_path: Path
) -> None:
    places = {"MODEL": str(model_path), "DATA": str(drawn)}
    argv = [sys.executable, "-m", "flawscope", *(places.get(word, word) for word in argv)]
    how = {"env": os.environ | {"PYTHONUNBUFFERED": unbuffered}, "stderr": subprocess.PIPE, "text": True}
    with open("/dev/full", "w") as full:
        done = subprocess.run(argv, stdout=full, timeout=60, **how)
    assert done.returncode == 1
    text = "cannot write to standard output: No space left on device; free some space or send it elsewhere"
    assert done.stderr == f"flawscope: {text}\n"


def test_a_closed_stdout_is_no_error() -> None:
    code = "import sys; sys.stdout = None; from flawscope.cli import main; sys.exit(main(['--version']))"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_and_the_script_are_the_same() -> None:
    done = shell("--version")
    assert (done.returncode, done.stdout) == (0, f"flawscope {__version__}\n")
    done = shell("predct")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------- the table


def test_tables_are_aligned_and_numbers_stand_right() -> None:
    text = table([("a", 1, "x"), ("bcd", 22, None), ("e", "n/a", "y")], ("name", "n", "t"))
    assert text.splitlines() == [
        "name    n  t",
        "----  ---  -",
        "a       1  x",
        "bcd    22",
        "e     n/a  y",
    ]


def test_an_empty_table_is_its_header() -> None:
    assert table([], ("a", "b")).splitlines()[0] == "a  b"


# ------------------------------------------------------------------------------------- a core installation


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch were not installed, and nothing of it had been asked for."""
    for name in [name for name in sys.modules if name.startswith("flawscope.fitting")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.parametrize(
    "argv",
    [
        ["fit", "--data", "DATA", "--out", "new.safetensors"],
        ["fit", "--update", "MODEL", "--data", "DATA", "--out", "new.safetensors"],
        ["prototypes", "--data", "DATA", "--out", "new.safetensors"],
    ],
)
def test_without_torch_a_command_that_fits_says_what_to_add(
    argv: list[str], capsys: Capture, core: None, drawn: Path, model_path: Path, tmp_path: Path
) -> None:
    places = {
        "DATA": str(drawn),
        "MODEL": str(model_path),
        "new.safetensors": str(tmp_path / "new.safetensors"),
    }
    assert main([places.get(word, word) for word in [*argv, "--quiet"]]) == 2
    assert one_line(capsys).startswith("flawscope: fitting needs torch: pip install ")


def test_without_torch_fit_of_the_package_says_what_to_add(core: None) -> None:
    with pytest.raises(InputError, match=r"^fitting needs torch: pip install "):
        flawscope.fit("pictures")


def test_the_hint_names_what_the_extra_lacks_here_and_never_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whose name on an index may be somebody else's."""
    monkeypatch.setattr(errors, "_is_installed", lambda name: name in ("timm", "psutil"))
    text = errors.installing("torch", extras="train,export")
    assert re.match(r'pip install "torch>=[\d.]+" "torchvision>=[\d.]+" ', text)
    assert '"Jinja2' in text  # of the extra that the extra takes in
    assert '"onnx>=' in text
    assert "timm" not in text
    assert "flawscope" not in text


def test_no_hint_installs_the_package_from_an_index() -> None:
    root = Path(flawscope.__file__).parents[2]
    files = [*(root / "src").rglob("*.py"), *root.glob("docs/*.md"), root / "README.md"]
    hint = re.compile(r"pip install (-\S+ )*['\"]?flawscope")
    assert not [path for path in files if hint.search(path.read_text(encoding="utf-8"))]
