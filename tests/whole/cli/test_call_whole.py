"""Calls: what is asked for, how a wrong one is told, and the exit codes."""

import os
import re
import subprocess
import sys

import pytest

from call_helpers import EAD, PRN, one_line
from small_network import SMALL_FLAGS


def shell(code, **settings):
    """A process that runs this with `main` at hand."""
    words = [sys.executable, "-c", f"import sys\nfrom flawscope.cli import main, models\n{code}"]
    return subprocess.run(words, stderr=subprocess.PIPE, text=True, timeout=120, **settings)


FIT = ["fit", "--data", "DATA", "--out", "OUT.safetensors"]
BENCHMARK = ["benchmark", "--data", "DATA", "--out", "OUT"]
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
    *(
        (["predict", "m", "PICTURES", "--out", f"x.{end}"], "are FILE.csv")
        for end in ("parquet", "ods", "Html")
    ),
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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is of Linux: nothing to install")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--version"], ["info", "MODEL", "--json"]], ids=lambda words: words[0])
def test_a_full_disk_behind_stdout_is_one_line(words, unbuffered, model_path):
    words = [str(model_path) if word == "MODEL" else word for word in words]
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = shell(f"sys.exit(main({words!r}))", stdout=full, env=env)
    text = "cannot write the output: No space left on device; free some space or send it elsewhere"
    assert (done.returncode, done.stderr) == (1, f"flawscope: {text}\n")


@pytest.mark.smoke
def test_the_module_is_the_command_and_a_closed_stdout_is_no_error():
    words = [sys.executable, "-m", "flawscope", "predct"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = shell("sys.stdout = None; sys.exit(main(['--version']))")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such mounts: nothing to install")
def test_a_model_is_learnt_where_its_own_folder_alone_can_be_written(drawn, tmp_path):
    """Nor is there a home, or a network; a folder for temporary files is asked for."""
    out = tmp_path / "models"
    out.mkdir()
    model = out / "plate.safetensors"
    # torch, in the tests' own process, notes there where it may write
    env = {name: os.environ[name] for name in os.environ if not name.startswith(("TMPDIR", "USER", "TORCH"))}
    env |= {"HOME": "/nonexistent"}

    def alone(*words):
        """A command on a file system that is read only, but for `out`."""
        mounts = 'mount --bind "$0" "$0" && mount -o remount,ro,bind / && touch "$0" && cd / && exec "$@"'
        call = ["unshare", "--mount", "--net", "sh", "-c", mounts, out, *words]
        return subprocess.run(call, env=env, capture_output=True, text=True, timeout=240)

    if alone("sh", "-c", "! touch /tmp/a").returncode:
        pytest.skip("root alone mounts so, and not in every container: nothing to install")
    flawscope = (sys.executable, "-m", "flawscope")
    fit = (*flawscope, "fit", "--data", drawn, *SMALL_FLAGS, "--size", "64", "--no-check", "--out", model)
    refused = alone(*fit)
    said = "flawscope: no folder can be written for temporary files, such as /tmp: set TMPDIR to one"
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (1, said)
    env["TMPDIR"] = str(out)
    fitted = alone(*fit)
    assert fitted.returncode == 0, fitted.stderr
    assert model.is_file()


def test_a_service_without_a_home_and_a_console_of_windows_will_do(onnx_path, drawn, tmp_path):
    """As a container runs that may write nothing but the folder it is in."""
    picture = tmp_path / "größe_部.png"
    picture.write_bytes(next((drawn / "plate/test/good").glob("*.png")).read_bytes())
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "TMPDIR", "USER")}
    env |= {"HOME": "/nonexistent", "PYTHONIOENCODING": "cp1252", "MPLCONFIGDIR": "/nonexistent/matplotlib"}
    words = [sys.executable, "-m", "flawscope", "predict", onnx_path, picture.name, "--out", "found"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, timeout=120)
    said = done.stdout.decode("cp1252") + done.stderr.decode("cp1252")
    assert done.returncode == 0, said
    assert "größe_\\u90e8.png" in said
    written = {one.name for one in (tmp_path / "found").iterdir()}
    assert {"report.html", "results.csv", "results.xlsx"} <= written
