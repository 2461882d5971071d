"""Which methods there are, and that a model file cannot bring one along."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flawscope.artefact import model_file
from flawscope.cli import main
from flawscope.errors import InputError
from flawscope.methods import registry
from flawscope.methods.features import weights


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path; what lies in it at first use is installed."""
    monkeypatch.syspath_prepend(tmp_path)
    registry._installed.cache_clear()
    yield tmp_path
    registry._installed.cache_clear()
    registry.method.cache_clear()


def install(site, code, entry="other = other_methods:METHOD"):
    (site / "other_methods.py").write_text(code)
    info = site / "other_methods-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(f"[flawscope.methods]\n{entry}\n")
    sys.modules.pop("other_methods", None)


ANOTHER = """
from dataclasses import replace
from pathlib import Path
from flawscope.methods.patchcore.record import METHOD as PATCHCORE
METHOD = replace(PATCHCORE, name={name!r})
"""


def test_an_installed_method_is_listed_and_found(site):
    install(site, ANOTHER.format(name="other"))
    assert registry.names() == [*registry.BUILT_IN, "other"]
    assert "other_methods" not in sys.modules  # until it is asked for
    assert registry.method("other").name == "other"
    assert registry.method("other") in registry.loadable_methods()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (ANOTHER.format(name="another"), "is not a method called other"),
        ("METHOD = 3", "is not a method called other"),
        ("raise OSError('no such\\nlibrary')", r"cannot be loaded .*\(no such library\): mend that package"),
        ("import no_such_package", "No module named 'no_such_package'"),
        ("", "has no attribute 'METHOD'"),
    ],
)
def test_a_broken_package_is_one_line_and_the_others_work(site, code, text):
    install(site, code)
    with pytest.raises(InputError, match=text) as caught:
        registry.method("other")
    assert "\n" not in str(caught.value)
    assert [method.name for method in registry.loadable_methods()] == list(registry.BUILT_IN)


def test_no_package_takes_a_built_in_methods_place(site):
    install(site, ANOTHER.format(name="patchcore"), "patchcore = other_methods:METHOD")
    assert registry.names() == list(registry.BUILT_IN)
    assert registry.method("patchcore").config.__module__ == "flawscope.methods.patchcore.record"


def of_method(model_path, name, out):
    """The model with another method's name in its file."""
    artefact = model_file.read(model_path)
    model_file.write(replace(artefact, manifest=replace(artefact.manifest, method=name)), out)
    return out


@pytest.mark.parametrize("name", ["padim", "os", "evil.module:x", "evil", "patchcor", "../evil", ""])
def test_a_model_of_a_method_that_is_not_there_is_one_line_and_imports_nothing(
    name, site, model_path, drawn, capsys
):
    (site / "evil").mkdir()
    for path in ("evil.py", "evil/__init__.py", "evil/module.py"):
        (site / path).write_text("raise SystemExit('imported')")
    path = of_method(model_path, name, site / "m.safetensors")
    before = set(sys.modules)
    assert main(["predict", str(path), str(drawn / "plate/test/good")]) == 2
    told = capsys.readouterr().err
    others = "others come with packages of their own: install theirs"
    assert re.fullmatch(rf".*no method called .*; {others}\n", told)
    assert not {module for module in set(sys.modules) - before if module.startswith("evil")}


def test_a_preset_names_the_package_that_it_lacks(monkeypatch):
    found = {"flawscope_weights_dinov2": Path("x"), "flawscope_weights": Path("x")}
    monkeypatch.setattr(weights.PackagedWeights, "find", lambda one: found.get(one.package))
    monkeypatch.setattr(registry, "cached_in_hub", lambda backbone: False)
    assert registry.missing_package("patchcore", "accurate") == ""
    del found["flawscope_weights_dinov2"]
    assert (
        registry.missing_package("patchcore", "accurate")
        == "pip install ./weights/dinov2 in flawscope's checkout"
    )
    assert registry.missing_package("patchcore", "default") == ""
    del found["flawscope_weights"]
    assert registry.missing_package("patchcore", "default") == "pip install ./weights in flawscope's checkout"
    with pytest.raises(InputError, match="no preset nix"):
        registry.missing_package("patchcore", "nix")
