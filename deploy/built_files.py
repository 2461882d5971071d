"""Checks what the built distributions hold: licence and notice, the files that belong there, metadata, links.

    python deploy/built_files.py dist

`deploy/release.py` and the tests call it. It prints a line for each fault, and ends with 1 where there is
one.
"""

from __future__ import annotations

import email
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RELATIVE_LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)]+)\)")
TEST_FILE = re.compile(r"(^|/)(tests?/|test_[^/]*\.py$|conftest\.py$)")
# the largest file of a wheel that holds no weights: more is something that does not belong there
MAX_FILE_BYTES = 1_000_000


@dataclass(frozen=True)
class Distribution:
    """A distribution of the project.

    Attributes:
        name: on the index.
        folder: its sources, below the root.
        package: the import name.
        suffixes: those of the files that its wheel holds beside its metadata.
        holds_weights: whether its files may be large.
        extra: of the library, which needs its weights.
        is_typed: whether it has type annotations for its users.
    """

    name: str
    folder: str
    package: str
    suffixes: frozenset[str]
    holds_weights: bool = False
    extra: str = ""
    is_typed: bool = True

    @property
    def file_name(self) -> str:
        """Name as wheels and source distributions spell it."""
        return self.name.replace("-", "_")


PAGES = frozenset({".css", ".j2", ".js", ".svg"})
DISTRIBUTIONS = (
    Distribution("flawscope", ".", "flawscope", frozenset({".py", ".typed", ".yaml"}) | PAGES),
    Distribution(
        "flawscope-station",
        "station",
        "flawscope_station",
        frozenset({".py", ".typed", ".yaml", ".md", ".txt", ".mako"}) | PAGES,
    ),
    Distribution("flawscope-line", "line", "flawscope_line", frozenset({".py", ".typed"})),
    Distribution(
        "flawscope-weights",
        "weights",
        "flawscope_weights",
        frozenset({".py", ".pth", ".safetensors"}),
        holds_weights=True,
        extra="train",
        is_typed=False,
    ),
    Distribution(
        "flawscope-weights-dinov2",
        "weights/dinov2",
        "flawscope_weights_dinov2",
        frozenset({".py", ".onnx"}),
        holds_weights=True,
        extra="accurate",
        is_typed=False,
    ),
)


def wheel_faults(path: Path, distribution: Distribution, released: bool = False) -> list[str]:
    """Return what is wrong with a wheel, a line for each fault.

    Args:
        path: the wheel.
        distribution: the one that it should hold.
        released: whether it goes to an index: then links are absolute and URLs are there.
    """
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        information = next(name.partition("/")[0] for name in sizes if name.endswith(".dist-info/METADATA"))
        faults = _licence_faults(archive, information, distribution)
        metadata = archive.read(f"{information}/METADATA").decode("utf-8")
    contents = {name: size for name, size in sizes.items() if not name.startswith(f"{information}/")}
    faults += _content_faults(contents, distribution)
    faults += _metadata_faults(metadata, distribution, released)
    return [f"{path.name}: {fault}" for fault in faults]


def _licence_faults(archive: zipfile.ZipFile, information: str, distribution: Distribution) -> Iterable[str]:
    faults = []
    source = ROOT / distribution.folder
    expected = {"LICENSE": ROOT / "LICENSE", "NOTICE": source / "NOTICE"}
    for text in sorted(source.glob("licences/*")):
        expected[f"licences/{text.name}"] = text
    for name, original in expected.items():
        try:
            packed = archive.read(f"{information}/licenses/{name}")
        except KeyError:
            faults.append(f"no {name}")
            continue
        if packed != original.read_bytes():
            faults.append(f"another {name} than {original.relative_to(ROOT)}")
    return faults


def _content_faults(sizes: dict[str, int], distribution: Distribution) -> Iterable[str]:
    faults = []
    if distribution.is_typed and f"{distribution.package}/py.typed" not in sizes:
        faults.append("no py.typed")
    for name, size in sizes.items():
        if not name.startswith(f"{distribution.package}/"):
            faults.append(f"{name} lies outside the package")
        elif TEST_FILE.search(name):
            faults.append(f"{name} is a test")
        elif Path(name).suffix not in distribution.suffixes and not name.endswith("/LICENSE"):
            faults.append(f"{name} is of a kind that does not belong there")
        elif size > MAX_FILE_BYTES and not distribution.holds_weights:
            faults.append(f"{name} has {size:,} bytes")
    return faults


def _metadata_faults(text: str, distribution: Distribution, released: bool) -> Iterable[str]:
    faults = []
    metadata = email.message_from_string(text)
    for field in ("Summary", "Keywords", "License-Expression", "Requires-Python", "Author"):
        if not metadata[field]:
            faults.append(f"no {field} in its metadata")
    if len(metadata.get_all("Classifier") or ()) < 5:
        faults.append("too few classifiers")
    for requirement in metadata.get_all("Requires-Dist") or ():
        needed = re.match(r"[\w-]+", requirement)
        is_own = needed is not None and needed[0].startswith("flawscope") and needed[0] != distribution.name
        if is_own and f"=={metadata['Version']}" not in requirement:
            faults.append(f"{requirement} is not pinned to this version")
    if not released:
        return faults
    if not metadata.get_all("Project-URL"):
        faults.append("no URLs in its metadata")
    links = RELATIVE_LINK.findall(str(metadata.get_payload()))
    if links:
        faults.append(f"its page has relative links, such as {links[0]}")
    return faults


def sdist_faults(path: Path, distribution: Distribution) -> list[str]:
    """Return what is wrong with a source distribution, a line for each fault.

    It holds no tests: those need the whole repository.
    """
    with tarfile.open(path) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    faults = [f"{name} is a test" for name in names if TEST_FILE.search(name)]
    needed = ["pyproject.toml", "README.md", "LICENSE", "NOTICE", f"src/{distribution.package}/__init__.py"]
    if distribution.holds_weights:
        needed.append("collect.py")
    faults += [f"no {name}" for name in needed if name not in names]
    return [f"{path.name}: {fault}" for fault in faults]


def faults_of(folder: Path, released: bool = False) -> list[str]:
    """Return what is wrong with the distributions in a folder; one that is missing is a fault, too."""
    faults = []
    for distribution in DISTRIBUTIONS:
        wheels = sorted(folder.glob(f"{distribution.file_name}-[0-9]*.whl"))
        archives = sorted(folder.glob(f"{distribution.file_name}-[0-9]*.tar.gz"))
        if len(wheels) != 1 or len(archives) != 1:
            faults.append(f"{distribution.name}: {len(wheels)} wheels, {len(archives)} source distributions")
        for wheel in wheels:
            faults += wheel_faults(wheel, distribution, released)
        for archive in archives:
            faults += sdist_faults(archive, distribution)
    return faults


def main() -> int:
    faults = faults_of(Path(sys.argv[1]))
    print("\n".join(faults) if faults else "all distributions are whole")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
