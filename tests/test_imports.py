"""Who may import what: torch only where a network is, numpy not before it is needed, no method another."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import flawscope
from flawscope import registry

ROOT = Path(flawscope.__file__).parent
OF_ONE_METHOD = {"cli.distill", "cli.prototypes"}  # commands that belong to it

# Modules in which a network lives. Everything else predicts, calibrates and reads files without torch.
METHOD_PARTS = {
    "patchcore": "model view coreset fit job leave_out memory screen size",
    "efficientad": "networks distill targets teacher model pictures trainer fit",
    "prnet": "prototypes network losses known model pictures trainer fit",
}
WITH_TORCH = {
    "detector",
    "export",
    "fitted",
    "fitting",
    "graph",
    "moments",
    "packed",
    "smoothing",
    "sources",
    "training",
    "workers",
    "runtime.torch",
    "features.backbone",
    "features.embedding",
    "features.extract",
    "features.pictures",
    *(f"{method}.{part}" for method in registry.METHODS for part in METHOD_PARTS[method].split()),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


ALL = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def loaded_after(code: str) -> set[str]:
    """Top-level names in sys.modules of a fresh interpreter after this code."""
    script = f"{code}\nimport sys, json\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def imported_by(path: Path) -> set[str]:
    """Every module that the file names in an import, also inside functions; full names."""
    package = ["flawscope", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def test_the_list_of_modules_with_torch_is_right() -> None:
    """Nothing in it that does not exist, nothing outside it that names torch at its top."""
    assert set(ALL) >= WITH_TORCH
    for name, path in ALL.items():
        top = ast.Module(
            [n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.Import)], []
        )
        names = {a.name.split(".")[0] for n in top.body for a in n.names}  # type: ignore[attr-defined]
        assert not names & {"torch", "timm", "torchvision"} or name in WITH_TORCH, name


def test_nothing_torch_free_loads_torch() -> None:
    """One interpreter imports them all; when it fails, the next test says which."""
    modules = [f"flawscope.{name}".rstrip(".") for name in ALL if name not in {*WITH_TORCH, "__main__"}]
    loaded = loaded_after("\n".join(f"import {name}" for name in modules))
    guilty = loaded & {"torch", "timm", "torchvision", "sklearn", "matplotlib", "cv2"}
    if guilty:
        for name in modules:
            assert not loaded_after(f"import {name}") & guilty, name
    assert not guilty


@pytest.mark.parametrize("name", ["numpy", "PIL", "scipy", "torch", "yaml", "safetensors"])
def test_importing_flawscope_costs_nothing(name: str, bare: set[str]) -> None:
    assert name not in bare


@pytest.fixture(scope="module")
def bare() -> set[str]:
    return loaded_after("import flawscope; flawscope.__version__; dir(flawscope)")


@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], ["fit", "--help"], ["fti"], ["predict", "--huh"]]
)
def test_help_and_typing_errors_load_no_numpy(argv: list[str]) -> None:
    code = (
        "import io, contextlib\nfrom flawscope.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        f"    try:\n        main({argv!r})\n    except SystemExit:\n        pass"
    )
    assert not loaded_after(code) & {"numpy", "PIL", "scipy", "torch", "yaml"}


def test_scipy_is_loaded_only_when_it_is_used() -> None:
    """It takes longer than all the rest together."""
    assert "scipy" not in loaded_after("import flawscope.predictor, flawscope.evaluation, flawscope.results")


def test_methods_never_import_each_other() -> None:
    for method, package in registry.METHODS.items():
        others = {p for m, p in registry.METHODS.items() if m != method}
        folder = ROOT / package.removeprefix("flawscope.").replace(".", "/")
        for path in folder.rglob("*.py"):
            wrong = {n for n in imported_by(path) if any(n == o or n.startswith(f"{o}.") for o in others)}
            assert not wrong, (path, wrong)


def test_only_the_registry_names_methods() -> None:
    packages = set(registry.METHODS.values())
    for name, path in ALL.items():
        if name.split(".")[0] in registry.METHODS or name in OF_ONE_METHOD:
            continue
        wrong = {n for n in imported_by(path) if any(n == p or n.startswith(f"{p}.") for p in packages)}
        assert not wrong, (name, wrong)


def test_every_session_imports_only_its_own_engine() -> None:
    engines = {"torch", "onnxruntime", "openvino"}
    for path in (ROOT / "runtime").glob("*.py"):
        named = {n.split(".")[0] for n in imported_by(path)}
        assert named & engines <= {path.stem.replace("onnx", "onnxruntime")}, path


def test_every_public_name_exists_and_a_wrong_one_is_an_attribute_error() -> None:
    pytest.importorskip("torch")
    for name in flawscope._WHERE:
        assert getattr(flawscope, name).__name__ == name
        assert name in dir(flawscope)
    with pytest.raises(AttributeError, match="fitt"):
        flawscope.fitt  # noqa: B018


def test_without_torch_a_model_is_described_and_running_it_says_what_to_install(model_path: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None  # as if it were not installed
from flawscope.cli import main
assert main(["info", {str(model_path)!r}]) == 0
assert main(["predict", {str(model_path)!r}, {str(model_path)!r}]) == 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "pip install 'flawscope[train]'" in done.stderr
