"""The packages: who may import whom, and where torch may be. docs/architecture.md tells the same in words."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import flawscope
from flawscope.methods import registry
from import_graph import circle, imported_by, inner_arrows, modules_of, packages_of

ROOT = Path(flawscope.__file__).parent

# package -> what it may import beside `errors` and `progress`, which all may. From the ground up:
# every package stands above those that it imports. A new arrow is a decision: think whether it stands in
# the right package, then add it here.
ALLOWED = {
    "errors": "",
    "progress": "",
    "machine": "",
    "pictures": "",
    "views": "pictures",
    "calibration": "",
    "datasets": "pictures",
    "artefact": "views calibration",
    "synthesis": "pictures",
    "results": "pictures views calibration artefact",
    "methods": "machine pictures views calibration artefact synthesis",
    "runtime": "machine artefact methods",
    "predictor": "pictures views calibration artefact results runtime",
    "export": "pictures views calibration artefact methods runtime",
    "fitting": "pictures views calibration datasets artefact synthesis methods predictor export",
    "testing": "pictures synthesis methods export fitting",
    "evaluation": "machine pictures views calibration datasets artefact results methods",
    "cluster": "machine pictures artefact results",
    "cli": "pictures calibration datasets artefact synthesis results methods "
    "predictor export fitting evaluation cluster",
}


ALL = modules_of(ROOT)


def package_of(module):
    """The folder or module directly in the package; None for the package's own face."""
    first = module.split(".")[0]
    return None if first in ("", "__main__", "_version") else first


def arrows():
    """(package, imported package) -> the modules that import."""
    found = {}
    for module, path in ALL.items():
        for name in imported_by(path):
            inside = name.removeprefix("flawscope.")
            if name == inside or not any(m == inside or m.startswith(f"{inside}.") for m in ALL):
                continue
            pair = package_of(module), package_of(inside)
            if None not in pair and pair[0] != pair[1]:
                found.setdefault(pair, set()).add(module)
    return found


def test_every_package_stands_above_those_that_it_imports():
    """So there is no circle: the order of the list is the order of the floors."""
    order = list(ALLOWED)
    assert all(order.index(other) < order.index(package) for package, other in arrows())


@pytest.mark.parametrize("package", packages_of(ROOT))
def test_no_package_has_a_circle(package):
    assert not circle(inner_arrows(ROOT, package))


def loaded_after(code):
    """Top-level names in sys.modules of a fresh interpreter after this code."""
    script = f"{code}\nimport sys, json\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("words", ["--help", "--version", "fit --help", "fti", "predict --huh"])
def test_help_and_typing_errors_load_no_numpy(words):
    code = (
        "import io\nfrom contextlib import redirect_stderr, redirect_stdout, suppress\n"
        "from flawscope.cli import main\nout, err = io.StringIO(), io.StringIO()\n"
        "with redirect_stdout(out), redirect_stderr(err), suppress(SystemExit):\n"
        f"    main({words.split()!r})"
    )
    assert not loaded_after(code) & {"numpy", "PIL", "scipy", "torch", "yaml"}


def test_nobody_imports_a_method():
    """Nor does another one: what a method has beside the contract stands in its record."""
    for method in registry.BUILT_IN:
        package = f"flawscope.methods.{method}"
        for name, path in ALL.items():
            if name.startswith(f"methods.{method}"):
                continue
            assert not {n for n in imported_by(path) if n == package or n.startswith(f"{package}.")}, name


def test_every_session_imports_only_its_own_engine():
    engines = {"torch", "onnxruntime", "openvino"}
    for path in (ROOT / "runtime").glob("*.py"):
        named = {n.split(".")[0] for n in imported_by(path)}
        assert named & engines <= {path.stem}, path


def test_every_public_name_exists_and_a_wrong_one_is_an_attribute_error():
    for name in flawscope._LAZY_IMPORTS:
        assert getattr(flawscope, name).__name__ == name
        assert name in dir(flawscope)
    with pytest.raises(AttributeError, match="fitt"):
        flawscope.fitt  # noqa: B018
