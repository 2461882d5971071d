"""`predict --cluster`: the rows of the plain command, whatever is lost on the way."""

import csv
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from flawscope.cli import main
from flawscope.results.table import DIGITS, FLOAT_COLUMNS, from_csv_cell

COMMAND = [sys.executable, "-m", "flawscope", "predict"]
# The lines that a run on a cluster may write
OURS = re.compile(r"prediction|results in|warning: |skipped: |about |severity: |\d+ ")


@pytest.fixture(scope="module")
def pictures(drawn, tmp_path_factory):
    """Good and defective ones, in folders; a copy, broken ones, one with several frames, and notes."""
    root = tmp_path_factory.mktemp("pictures")
    found = sorted((drawn / "plate/test").rglob("*.png"))
    for k, path in enumerate(found * 3):
        target = root / path.parent.name / f"{k}.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    (root / "broken.png").write_bytes(found[0].read_bytes()[:300])
    (root / "empty.jpg").write_bytes(b"")
    (root / "notes.txt").write_text("of the third shift")
    with Image.open(found[0]) as first, Image.open(found[1]) as second:
        first.save(root / "several.tif", save_all=True, append_images=[second])
    return root


def rows(out):
    """Of a run on a cluster, in the order of the listing."""
    from pyarrow import parquet

    files = sorted(out.glob("parts/*.parquet"))
    return [row for file in files for row in parquet.ParquetFile(file).read().to_pylist()]


def plain(model, *specs, out):
    """Rows of the plain command's table, its numbers as numbers."""
    main(["predict", str(model), *map(str, specs), "--out", str(out), "--threads", "1", "--quiet"])
    with open(out, encoding="utf-8-sig", newline="") as file:
        table = [*csv.DictReader(file)]
    read = {name: lambda text: float(text) if text else None for name in FLOAT_COLUMNS}
    named = [{name: text for name, text in row.items() if name != "model"} for row in table]
    return [{name: read.get(name, from_csv_cell)(text) for name, text in row.items()} for row in named]


def common(found):
    """The columns that the plain table has, too, in its digits."""
    short = lambda one: float(f"{one:.{DIGITS}g}") if isinstance(one, float) else one  # noqa: E731
    more = ("height", "width", "shifts", "beyond_promise")
    return [{k: short(v) for k, v in row.items() if k not in more} for row in found]


def stamps(out):
    return {path.name: path.stat().st_mtime_ns for path in out.glob("parts/*.parquet")}


def written(parts, out):
    """Whether so many parts are there."""
    return lambda: len(list(out.glob("parts/*.parquet"))) >= parts


@pytest.mark.smoke
def test_rows_and_remarks_are_those_of_the_plain_command(one_node, model_path, pictures, tmp_path, capfd):
    folder = tmp_path / "folder"
    missing = tmp_path / "missing"
    specs = [str(pictures), str(missing)]
    call = ["predict", str(model_path), *specs, "--fail-on-anomaly"]
    expected = plain(model_path, pictures, missing, out=tmp_path / "plain.csv")
    capfd.readouterr()
    assert main([*call, "--out", str(folder), "--threads", "1", "--only-anomalous"]) == 3
    said = capfd.readouterr().err.splitlines()
    out = tmp_path / "out"
    clustered = [*call, "--out", str(out), "--cluster", one_node.address]
    assert main(clustered) == 3
    shown = capfd.readouterr()
    assert shown.out == ""
    found = rows(out)
    assert common(found) == expected
    assert [row["error"][:11] for row in found if row["error"]] == ["cannot read"] * 3 + [str(missing)[:11]]
    sizes = {(row["height"], row["width"]) for row in found}
    assert sizes == {(96, 96), (None, None)}
    assert {len(row["shifts"]) for row in found if row["shifts"]} == {6}
    # the same is said at the end
    own = ("prediction", "1 worker", "2 workers", "report", "results in", "page:", "no page", "next:")
    left = [line for line in said if not line.startswith((*own, str(folder)))]
    assert [line for line in shown.err.splitlines() if not line.startswith((*own, str(folder)))] == left
    facts = [json.loads((where / "results.json").read_text()) for where in (folder, out)]
    for each in facts:
        del each["seconds"]
    assert facts[0] == facts[1]
    # all is done: nothing is judged, or written, again
    before = stamps(out)
    assert main(clustered) == 3
    assert "nothing is left to do" in capfd.readouterr().err
    assert stamps(out) == before
    # another call in this folder
    other = [*clustered, "--false-alarm-rate", "0.2"]
    assert main(other) == 2
    assert "holds a run with another false-alarm-rate" in capfd.readouterr().err
    assert main([*clustered[:2], str(pictures), *clustered[4:]]) == 2
    assert "holds a run with another pictures" in capfd.readouterr().err


def test_rows_of_several_parts_are_those_of_the_plain_command(cluster, several_model, tmp_path, capfd):
    from brackets import drawn as brackets

    given = tmp_path / "given"
    given.mkdir()
    for k, cells in enumerate((range(5), range(4), range(0))):
        Image.fromarray(brackets(600 + k, cells)[0]).save(given / f"{k}.png")
    out, engine = tmp_path / "out", ("--engine", "onnxruntime")
    call = ["predict", str(several_model), str(given), *engine, "--out", str(out)]
    assert main([*call, "--cluster", cluster.address]) == 0
    assert "3 pictures" in capfd.readouterr().err
    found = common(rows(out))
    assert [row["part_count"] for row in found if row["part_index"] is None] == [5, 4, 0]
    assert len(found) == 3 + 5 + 4
    assert found == plain(several_model, given, *map(Path, engine), out=tmp_path / "plain.csv")


def test_through_a_client(cluster, model_path, pictures, tmp_path):
    """In a process of its own, since this one may have been of the cluster."""
    broken, good = pictures / "broken.png", next((pictures / "good").iterdir())
    given, out = [good, broken, tmp_path / "nothing.png"], tmp_path / "out"
    call = [*COMMAND, model_path, *given, "--cluster", cluster.client, "--out", out]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    first, damaged, nothing = rows(out)
    assert damaged["error"] == f"cannot read picture {broken}: the file is truncated; copy it again [FS-G71]"
    assert nothing["error"].startswith(f"{tmp_path}/nothing.png: no such")
    (alone,) = plain(model_path, good, out=tmp_path / "plain.csv")
    assert first["score"] == pytest.approx(alone["score"], rel=1e-6)  # seven digits in CSV


CONNECTIONS = """\
import sys
import ray
from flawscope.cluster.connect import cluster_connection
from flawscope.errors import InputError
init, left = ray.init, [int(sys.argv[3])]
def fails(**given):
    left[0] -= 1
    if left[0] >= 0:
        raise RuntimeError(FAILS[left[0] % 2])
    return init(**given)
FAILS = (
    "RuntimeError: Starting Ray client server failed. See ray_client.err",
    "psutil.ZombieProcess: PID still exists but it's a zombie (pid=23617)",
)
ray.init = fails
with cluster_connection(sys.argv[1]):
    print("joined")
left[0] = 9
try:
    with cluster_connection(sys.argv[1]):
        pass
except InputError as error:
    print(error)
ray.init = init
ray.init(address=sys.argv[2], log_to_driver=False, logging_level="ERROR")
try:
    with cluster_connection(sys.argv[2]):
        pass
except InputError as error:
    print(ray.is_initialized(), error)
"""


def test_a_server_that_ends_at_once_is_tried_again_and_the_callers_connection_left_alone(cluster):
    call = [sys.executable, "-c", CONNECTIONS, cluster.client, cluster.address, "2"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    joined, ended, other = done.stdout.splitlines()
    assert joined == "joined"
    assert f"--cluster {cluster.client}: cannot connect: Starting Ray client" in ended
    assert other.startswith("True this program is connected to a Ray cluster already")


def test_neither_a_killed_command_nor_a_lost_node_loses_or_repeats_anything(
    cluster, model_path, pictures, tmp_path
):
    expected = {row["path"]: row for row in plain(model_path, pictures, out=tmp_path / "plain.csv")}
    lines, piped, out = [*expected] * 6, tmp_path / "lines.txt", tmp_path / "out"
    call = [*COMMAND, model_path, "-", "--cluster", cluster.address, "--out", out]

    def begun(paths):
        piped.write_text("\n".join(paths))
        with piped.open("rb") as stdin:
            return subprocess.Popen(
                call, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )

    killed = begun(lines)
    cluster.until(written(3, out))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = stamps(out)
    again = begun(lines)
    cluster.until(written(len(before) + 2, out))
    cluster.lose()
    assert again.poll() is None
    cluster.restore()
    said = again.communicate(timeout=300)
    assert (again.returncode, said[0]) == (1, ""), said
    left = re.search(r"(\d+) of 27 parts to judge", said[1])
    assert left
    assert len(before) <= 27 - int(left[1]) <= len(before) + 2  # a worker may still have ended its part
    assert not [line for line in said[1].splitlines() if not OURS.match(line)]
    assert common(rows(out)) == [expected[line] for line in lines]
    after = stamps(out)
    assert len(after) == 27
    assert {name: after[name] for name in before} == before
    other = begun(lines[1:])
    assert "holds a run with another list of paths on stdin" in other.communicate(timeout=300)[1]


def test_wrong_calls_are_refused_in_one_line(model_path, pictures, tmp_path, capsys):
    local = ["--cluster", "local", "--out"]
    for more, said in (
        ([*local, "out", "--json"], "--json is not for --cluster"),
        ([*local, "out", "--only-anomalous"], "nothing is printed or drawn for a picture"),
        ([*local, "r.csv"], "name a folder"),
        ([*local[:2]], "--cluster needs --out"),
        ([*local, "out", "--cluster", "nowhere"], "write auto"),
        ([*local, str(tmp_path / "out"), "--cluster", "127.0.0.1:1"], "cannot connect"),
    ):
        assert main(["predict", str(model_path), str(pictures), *more]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_a_cluster_of_this_machines_own_is_heard_by_this_machine_alone():
    code = """
import os, psutil
from flawscope.cluster import connect
with connect.cluster_connection("local"):
    print([node.name for node in connect.list_nodes()])
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            found = [one.laddr.ip for one in process.net_connections("inet") if one.status == "LISTEN"]
        except psutil.Error:
            continue
        print(*found, sep="\\n")
from ray._private import ray_constants
print(ray_constants.ENABLE_RAY_CLUSTER, connect.CLUSTER_VARIABLE in os.environ)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, *heard, last = done.stdout.split("\n")[:-1]
    assert (first, last) == ("['127.0.0.1']", f"{sys.platform not in ('darwin', 'win32')} False")
    heard = [address.removeprefix("::ffff:") for address in heard if address]
    assert len(heard) > 3
    assert {*heard} == {"127.0.0.1"}


def test_without_ray_one_line_says_what_to_install(model_path, tmp_path):
    code = f"""
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "ray" else real(name, *more)
sys.modules["ray"] = None
from flawscope.cli import main
sys.exit(main(["predict", {str(model_path)!r}, ".", "--cluster", "local", "--out", {str(tmp_path / "o")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("flawscope: --cluster needs ray: pip install ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "o").exists()
