"""`make bundle` and its installer, in a root that holds the system's programs alone, without a network."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from flawscope_station.settings.station import DATABASE_FILE

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests/fixtures/models/patchcore-two-sizes.onnx"
SEEN = ("/usr", "/bin", "/sbin", "/lib", "/lib64", sys.base_prefix)  # of this machine, read only
MOUNTS = """
set -e
mount --make-rprivate /
for seen in {seen}; do mkdir -p "{root}$seen"; mount --rbind "$seen" "{root}$seen"; done
mkdir -p -m 1777 {root}/tmp
mkdir -p {root}/dev {root}/proc {root}/etc {root}/var {root}/root
mount --rbind /dev {root}/dev
mount -t proc proc {root}/proc
export PATH={python}/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec chroot {root} /usr/bin/env -i PATH=$PATH PIP_COMPILE=0 sh -c '{command}'
"""


def inside(root, command):
    """Runs a command in the root, without a network."""
    seen = " ".join(path for path in SEEN if Path(path).exists())
    script = MOUNTS.format(seen=seen, root=root, python=sys.base_prefix, command=command)
    return subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "sh", "-c", script], capture_output=True, text=True
    )


def done(found):
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--platform", "win_amd64", "--python", "3.99"], "make it on such a machine with that Python"),
        (["--platform", "macosx_14.0_arm64"], "each is made on such a machine"),
    ],
)
def test_an_archive_for_another_machine_is_refused_in_one_line(tmp_path, words, remedy):
    call = [sys.executable, ROOT / "deploy/bundle.py", *words, "--out", tmp_path / "dist"]
    found = subprocess.run(call, capture_output=True, text=True)
    assert found.returncode == 1
    assert remedy in found.stderr
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "dist").exists()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs Linux' namespaces: nothing to install"
)
def test_a_bundle_installs_upgrades_and_goes_back_without_a_network(tmp_path):
    if os.geteuid() or subprocess.run(["unshare", "--net", "--mount", "true"], check=False).returncode:
        pytest.skip("needs root that may make namespaces: nothing to install")
    made = [sys.executable, ROOT / "deploy/bundle.py", "--extras", "", "--out", tmp_path]
    archive = Path(subprocess.run(made, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    with tarfile.open(archive) as packed:
        packed.extractall(root, filter="data")
    archive.unlink()
    (new,) = root.glob("flawscope-*")
    first = new.with_name(f"first-{new.name}")  # the same wheels as an older version
    shutil.copytree(new, first)
    (first / "VERSION").write_text("0.0.1\n")
    sums = (first / "SHA256SUMS").read_text().splitlines(keepends=True)
    (first / "SHA256SUMS").write_text("".join(line for line in sums if not line.endswith(" VERSION\n")))
    version = (new / "VERSION").read_text().strip()

    done(inside(root, f"/{first.name}/install.sh"))
    assert "installed already" in inside(root, f"/{first.name}/install.sh").stderr
    shutil.copy(MODEL, root / "etc/flawscope/part.onnx")
    settings = root / "etc/flawscope/station.yaml"
    settings.write_text("products: {part: part.onnx}\nstore: /var/lib/flawscope\n")
    run = "setpriv --reuid flawscope --regid flawscope --init-groups /opt/flawscope/current/bin/flawscope"
    assert "passed" in done(inside(root, f"{run} info /etc/flawscope/part.onnx --self-test 2>&1"))
    add = f"echo a long password | {run} station user add %s --settings /etc/flawscope/station.yaml"
    done(inside(root, add % "anna"))

    damaged = next((new / "wheels").glob("flawscope-*.whl"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    assert "damaged" in inside(root, f"/{new.name}/install.sh").stderr
    damaged.write_bytes(whole)
    done(inside(root, f"/{new.name}/install.sh"))
    assert os.readlink(root / "opt/flawscope/current") == version
    assert len(list((root / "var/backups/flawscope").glob(f"before-{version}-*.tar"))) == 1
    done(inside(root, add % "berta"))
    listed = f"{run} station user list --settings /etc/flawscope/station.yaml"

    back = "/opt/flawscope/current/install.sh back"
    done(inside(root, back))
    assert os.readlink(root / "opt/flawscope/current") == "0.0.1"
    assert "berta" in done(inside(root, listed)), "tables that an older version reads stay as they are"

    done(inside(root, f"/{new.name}/install.sh"))
    with closing(sqlite3.connect(root / "var/lib/flawscope" / DATABASE_FILE)) as store, store:
        store.execute("UPDATE alembic_version SET version_num = '9999'")  # as a later version might
    assert "what was recorded since is in those kept beside" in done(inside(root, back))
    assert "anna" in done(inside(root, listed))
    assert list((root / "var/lib/flawscope").glob(f"tables-*/{DATABASE_FILE}"))
    assert "the first one" in inside(root, back).stderr
