"""Makes a release: checks, builds, tries the wheels in new environments, and gathers all files in one folder.

    make release VERSION=0.1.0 REPOSITORY=https://forge.example/owner/flawscope
    python deploy/release.py 0.1.0 --set-version      # only writes the version into the files that hold it

It needs a committed tree and the package index, and no hand: everything below build/release/ is made anew.
It writes to dist/: wheels and source distributions, the guide as a site, an SBOM (CycloneDX) and the licences
of what the wheels need, the files for container images, an archive for machines without internet, checksums,
and the text of the release. Nothing is uploaded: docs/releasing.md has the commands.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import built_files

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build/release"
SOURCE = WORK / "source"  # the committed tree, with links as an index's page needs them
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EXTRAS = "train,accurate,report,export,openvino,backbones,cluster,tiff,pandas"
READMES = (
    "README.md",
    "station/README.md",
    "line/README.md",
    "weights/README.md",
    "weights/dinov2/README.md",
)
PROJECTS = tuple((Path(one.folder) / "pyproject.toml").as_posix() for one in built_files.DISTRIBUTIONS)
IMAGE_FILES = (
    "Dockerfile",
    ".dockerignore",
    "compose.yaml",
    "compose.mqtt.yaml",
    "constraints.txt",
    "deploy",
)
# Where the version stands. A test holds them equal; `set_version` writes them.
VERSION_PLACES = {
    "src/flawscope/_version.py": r'__version__ = "(?P<version>[^"]+)"',
    "CITATION.cff": r"^version: (?P<version>\S+)$",
    "station/pyproject.toml": r'^version = "(?P<version>[^"]+)"$',
    "line/pyproject.toml": r'^version = "(?P<version>[^"]+)"$',
    "weights/pyproject.toml": r'^version = "(?P<version>[^"]+)"$',
    "weights/dinov2/pyproject.toml": r'^version = "(?P<version>[^"]+)"$',
}
OWN_PIN = re.compile(r'"(?P<name>flawscope[\w-]*)==(?P<version>[^"]+)"')
LINK = re.compile(r"(?P<start>!?\[[^\]]*\]\()(?!https?://|mailto:|#)(?P<target>[^)]+)\)")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print a step and how long it took."""
    print(f"== {name}", flush=True)
    start = time.monotonic()
    yield
    print(f"   {time.monotonic() - start:.0f} s", flush=True)


def run(*words: str | Path, folder: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    """Run a command; return what it printed.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr)[-4000:]
        raise SystemExit(f"failed: {' '.join(map(str, words))}\n{said}")
    return done.stdout


def versions_found() -> dict[str, str]:
    """Return the version that each file holds, the pins between the distributions among them."""
    found = {}
    for name, pattern in VERSION_PLACES.items():
        match = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.M)
        if match is None:
            raise SystemExit(f"{name} holds no version")
        found[name] = match["version"]
    for name in PROJECTS:
        for pin in OWN_PIN.finditer((ROOT / name).read_text(encoding="utf-8")):
            found[f"{name}: {pin['name']}"] = pin["version"]
    return found


def set_version(version: str) -> None:
    """Write a version into each file that holds it."""
    for name, pattern in VERSION_PLACES.items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        match = re.search(pattern, text, re.M)
        if match is None:
            raise SystemExit(f"{name} holds no version")
        start, end = match.span("version")
        path.write_text(text[:start] + version + text[end:], encoding="utf-8")
    for name in PROJECTS:
        path = ROOT / name
        text = OWN_PIN.sub(lambda pin: f'"{pin["name"]}=={version}"', path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")


def check_tree(version: str) -> None:
    """Check that all is committed, has this version, and that the changelog speaks of it.

    Raises:
        SystemExit: it is not so.
    """
    changed = run("git", "status", "--porcelain", "--untracked-files=no")
    if changed:
        raise SystemExit(f"commit first: a release is made of what is committed\n{changed}")
    others = {name: found for name, found in versions_found().items() if found != version}
    if others:
        remedy = f"python deploy/release.py {version} --set-version"
        raise SystemExit(f"these hold another version than {version}: {others}; {remedy}")
    run(sys.executable, ".ci/notes.py", version)


def absolute_links(text: str, folder: str, repository: str) -> str:
    """Return Markdown whose relative links lead into the repository, pictures to their raw files.

    Args:
        text: the page.
        folder: where it lies, below the root.
        repository: the address of the repository at the forge.
    """

    def replace(link: re.Match[str]) -> str:
        target, mark, anchor = link["target"].partition("#")
        place = os.path.normpath(os.path.join(folder, target))
        kind = "raw" if link["start"].startswith("!") else "blob"
        return f"{link['start']}{repository}/{kind}/main/{place}{mark}{anchor})"

    return LINK.sub(replace, text)


def prepare_source(repository: str) -> None:
    """Unpack the committed tree, and give its pages and metadata the addresses of the repository."""
    SOURCE.mkdir(parents=True)
    archive = WORK / "source.tar"
    run("git", "archive", "--output", archive, "HEAD")
    with tarfile.open(archive) as packed:
        packed.extractall(SOURCE, filter="data")
    if not repository:
        print("   without --repository: links on an index's page stay relative, and metadata have no URLs")
        return
    urls = (
        f'[project.urls]\nHomepage = "{repository}"\nSource = "{repository}"\n'
        f'Documentation = "{repository}/blob/main/docs/index.md"\n'
        f'Changelog = "{repository}/blob/main/CHANGELOG.md"\nIssues = "{repository}/issues"\n\n'
    )
    for name in READMES:
        path = SOURCE / name
        folder = os.path.dirname(name)
        path.write_text(
            absolute_links(path.read_text(encoding="utf-8"), folder, repository), encoding="utf-8"
        )
    for name in PROJECTS:
        path = SOURCE / name
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("[tool.setuptools", urls + "[tool.setuptools", 1), encoding="utf-8")


def make_environment(name: str, *requirements: str | Path, python: str = sys.executable) -> Path:
    """Make a new environment with what is asked for; return its interpreter."""
    folder = WORK / "environments" / name
    run(python, "-m", "venv", folder)
    interpreter = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if requirements:
        run(interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
    return interpreter


def build(out: Path, tools: Path) -> None:
    """Build and check all wheels and source distributions."""
    for distribution in built_files.DISTRIBUTIONS:
        run(tools, "-m", "build", "--outdir", out, SOURCE / distribution.folder)
    run(tools, "-m", "twine", "check", "--strict", *sorted(out.glob("*.whl")), *sorted(out.glob("*.tar.gz")))


def wheel_of(out: Path, name: str) -> Path:
    """Return the wheel of a distribution, by its name in files."""
    return next(out.glob(f"{name}-[0-9]*.whl"))


def pythons() -> dict[str, str]:
    """Return the interpreters of supported versions that this machine has, by version."""
    found = {version: shutil.which(f"python{version}") for version in PYTHONS}
    return {version: path for version, path in found.items() if path}


def try_wheels(out: Path) -> None:
    """Install the wheels into new environments outside the checkout, and run the main commands there."""
    core, weights = wheel_of(out, "flawscope"), wheel_of(out, "flawscope_weights")
    station, line = wheel_of(out, "flawscope_station"), wheel_of(out, "flawscope_line")
    constraints = ("-c", ROOT / "constraints.txt")
    model = ROOT / "tests/fixtures/models/patchcore-two-sizes.onnx"
    for version, python in pythons().items():
        with step(f"Python {version}: the core"):
            try_commands(
                make_environment(f"core-{version}", core, python=python), ["info", model, "--self-test"]
            )
        if version != PYTHONS[0]:  # there are no wheels of versions that are older than a Python
            continue
        with step(f"Python {version}: the lowest versions of the core's dependencies"):
            lowest = make_environment(f"lowest-{version}", core, *lowest_pins(), python=python)
            try_commands(lowest, ["info", model, "--self-test"])
    packages = (weights, f"{core}[train,export]", f"{station}[openid]", f"{line}[plc]")
    for version, python in pythons().items():
        # known versions with the oldest Python, the newest that there are with the others
        pins = constraints if version == PYTHONS[0] else ()
        name = "everything" if version == PYTHONS[0] else f"everything-{version}"
        with step(f"Python {version}: train, export, station, line: fit, export, predict, serve"):
            everything = make_environment(name, *pins, *packages, python=python)
            try_commands(
                everything,
                ["demo", "--out", "demo"],
                ["fit", "--data", "demo/data/plate", "--out", "part.safetensors"],
                ["export", "part.safetensors", "--out", "part.onnx"],
                ["predict", "part.onnx", "demo/data/plate/test", "--out", "found"],
                ["station", "check", "station.yaml"],
                ["plc-table", "--format", "csv"],
            )
            try_station(everything)
    with step("every extra of the library"):
        extras = make_environment(
            "extras", *constraints, weights, wheel_of(out, "flawscope_weights_dinov2"), f"{core}[{EXTRAS}]"
        )
        try_commands(extras, ["info", model, "--self-test"])


def try_station(python: Path) -> None:
    """Start the station of an environment's folder, and see that it is ready."""
    folder = python.parents[1] / "work"
    port = free_port()
    with (folder / "station.yaml").open("a", encoding="utf-8") as settings:
        settings.write(f"port: {port}\n")
    words = (python.with_name("flawscope"), "serve", "station.yaml")
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as station:
        try:
            wait_until_ready(f"http://127.0.0.1:{port}/readyz", station)
        finally:
            station.terminate()


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_ready(address: str, station: subprocess.Popen[bytes]) -> None:
    """Wait until a station says that it is ready.

    Raises:
        SystemExit: it has ended, or is not ready after two minutes.
    """
    end = time.monotonic() + 120
    while time.monotonic() < end and station.poll() is None:
        with suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.5)
    station.kill()
    raise SystemExit(f"the station of the wheels is not ready: {station.communicate()[0][-4000:].decode()}")


def lowest_pins() -> list[str]:
    """Return the core's requirements at their lower bounds."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [requirement.replace(">=", "==") for requirement in project["dependencies"]]


def try_commands(python: Path, *commands: Sequence[str | Path]) -> None:
    """Check an environment with pip, and run commands of flawscope in an empty folder."""
    folder = python.parents[1] / "work"
    folder.mkdir(exist_ok=True)
    (folder / "station.yaml").write_text("products: {part: part.onnx}\nstore: store\n", encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run(python, "-m", "pip", "check", folder=folder, environment=clean)
    for words in commands:
        run(python.with_name("flawscope"), *words, folder=folder, environment=clean)


def write_bill_of_materials(out: Path, version: str, tools: Path) -> None:
    """Write the SBOM and the licences of all that the wheels bring along."""
    installed = WORK / "environments/everything"
    sbom = out / f"flawscope-{version}.cdx.json"
    run(tools, "-m", "cyclonedx_py", "environment", installed, "--output-reproducible", "-o", sbom)
    interpreter = installed / "bin/python"
    licences = out / f"flawscope-{version}-licences.md"
    run(
        *(tools.with_name("pip-licenses"), f"--python={interpreter}", "--format=markdown", "--with-urls"),
        *("--with-system", f"--output-file={licences}"),
    )


def write_archives(out: Path, version: str, tools: Path, repository: str) -> None:
    """Write the guide as a site, the files for images, and the archive for machines without internet."""
    addresses = {**os.environ, "REPOSITORY": repository}  # the site's edit links lead there
    build = ("mkdocs", "build", "--strict", "--site-dir", WORK / "site")
    run(tools, "-m", *build, folder=ROOT, environment=addresses)
    shutil.make_archive(str(out / f"flawscope-{version}-docs"), "zip", WORK / "site")
    images = out / f"flawscope-{version}-images.tar.gz"
    run("git", "archive", f"--prefix=flawscope-{version}/", "-o", images, "HEAD", *IMAGE_FILES)
    run(sys.executable, "deploy/bundle.py", "--out", out)


def write_checksums(out: Path) -> None:
    """Write the SHA-256 of every file."""
    files = sorted(path for path in out.iterdir() if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(lines), encoding="ascii")


def release(version: str, repository: str, out: Path) -> None:
    """Make all files of a release in `out`."""
    for folder in (WORK, out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    with step("the tree"):
        check_tree(version)
        prepare_source(repository)
    with step("tools"):
        tools = make_environment(
            *("tools", "-c", ROOT / "constraints.txt", "build", "twine", "cyclonedx-bom", "pip-licenses"),
            f"{SOURCE}[docs]",
        )
    with step("wheels and source distributions"):
        build(out, tools)
        faults = built_files.faults_of(out, released=bool(repository))
        if faults:
            raise SystemExit("\n".join(faults))
    try_wheels(out)
    with step("SBOM and licences"):
        write_bill_of_materials(out, version, tools)
    with step("site, images, archive without internet"):
        write_archives(out, version, tools, repository)
    notes = run(sys.executable, ".ci/notes.py", version)
    (out / "RELEASE.md").write_text(notes, encoding="utf-8")
    write_checksums(out)
    print(f"done: {out}; docs/releasing.md says how it is published")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version", help="such as 0.1.0")
    parser.add_argument(
        "--repository", default="", metavar="URL", help="the repository's address at the forge"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR", help="default: dist")
    parser.add_argument("--set-version", action="store_true", help="only write the version into its files")
    args = parser.parse_args()
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", args.version):
        parser.error(f"{args.version} is no version: write for example 0.1.0")
    if args.set_version:
        set_version(args.version)
        return
    release(args.version, args.repository.rstrip("/"), args.out.resolve())


if __name__ == "__main__":
    main()
