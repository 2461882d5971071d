"""The packages: who may import whom, and where torch may be. docs/architecture.md tells the same in words."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flawscope
import flawscope_station
from flawscope.methods import registry
from flawscope.methods.options.record import ARGUMENT
from flawscope.methods.options.table import names_of
from import_graph import (
    arrows_to_own_face,
    circle,
    imported_by,
    inner_arrows,
    module_arrows,
    modules_of,
    packages_of,
)

ROOT = Path(flawscope.__file__).parent
REPOSITORY = Path(__file__).parents[2]

# package -> what it may import beside those `FOR_ALL`. From the ground up:
# every package stands above those that it imports. A new arrow is a decision: think whether it stands in
# the right package, then add it here.
ALLOWED = {
    "types": "",
    "errors": "",
    "progress": "",
    "machine": "",
    "pictures": "",
    "config": "pictures",
    "views": "pictures",
    "calibration": "pictures",
    "datasets": "pictures calibration",
    "artefact": "pictures views calibration",
    "synthesis": "pictures",
    "results": "pictures views calibration artefact",
    "methods": "machine pictures views calibration artefact synthesis",
    "runtime": "machine pictures artefact methods",
    "predictor": "pictures views calibration artefact results runtime",
    "export": "pictures calibration artefact methods runtime predictor",
    "fitting": "pictures views calibration datasets artefact synthesis methods predictor export",
    "testing": "pictures datasets synthesis methods predictor export fitting",
    "evaluation": "machine pictures views calibration datasets artefact results methods predictor fitting",
    "pages": "machine pictures views calibration datasets artefact results predictor evaluation",
    "cluster": "machine pictures artefact results predictor",
    "cli": "pictures calibration datasets artefact synthesis results methods "
    "predictor export fitting evaluation pages cluster",
}
FOR_ALL = {"errors", "progress", "config", "types"}
# Packages with networks. All others predict, calibrate and read files without torch, as do these modules.
WITH_TORCH = {"methods", "fitting", "export"}
WITHOUT_TORCH = {
    "methods",
    "methods.features",
    "methods.features.weights",
    "methods.registry",
    "methods.method",
    "methods.settings",
    "methods.training",
    "methods.training.efficientad",
    "methods.training.prnet",
    "fitting",
    "export",
}
# `cluster` runs what the commands run, elsewhere: it stands on as many packages as they do
MOST_PACKAGES, MOST_ARROWS = 22, 88  # beside those to what is for all


ALL = modules_of(ROOT)


def package_of(module):
    """The folder or module directly in the package; None for the package's own face."""
    first = module.split(".")[0]
    return None if first in ("", "__main__", "_lazy", "_version") else first


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


def test_the_list_of_rooms_is_what_is_there():
    there = {package for package in map(package_of, ALL) if package}
    assert there == set(ALLOWED)
    drawn = {pair for pair in arrows() if pair[1] not in FOR_ALL}
    assert {(package, other) for package, others in ALLOWED.items() for other in others.split()} == drawn
    assert len(there) <= MOST_PACKAGES
    assert len(drawn) <= MOST_ARROWS


def test_every_package_stands_above_those_that_it_imports():
    """So there is no circle: the order of the list is the order of the floors."""
    order = list(ALLOWED)
    assert all(order.index(other) < order.index(package) for package, other in arrows())


@pytest.mark.parametrize("package", packages_of(ROOT))
def test_no_package_has_a_circle(package):
    assert not circle(inner_arrows(ROOT, package))


PACKAGES = [ROOT, *(REPOSITORY / one / "src" / f"flawscope_{one}" for one in ("station", "line"))]


@pytest.mark.parametrize("root", PACKAGES, ids=lambda root: root.name)
def test_no_import_runs_back_up(root):
    """Modules have an order in which each stands above all that it imports, also for its types alone. A
    package's face stands above its modules: none of these, or of the faces below, takes a name from it."""
    assert not circle(module_arrows(root))
    assert not arrows_to_own_face(root)


# A docstring that begins with one of these names nothing: begin with a verb, or with the thing's name
NAMELESS = re.compile(
    r"(What|How|Where|Who|Which|One|Those|These|This|It|They|Them|Of|That|As|By|From|For|With|Without|In|At|On|"
    r"To|Into|Also|Only|Not|So|Everything|Something|Nothing|Nobody|None|Is|Are|Was|When|If|Once|Again|Same|"
    r"Such|There|Here|Like|Soon|Else|Or|And|But)\b"
)


def test_docstrings_begin_with_a_verb_or_the_things_name():
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nameless = [
        f"{module}: {text[:60]}"
        for house in (ROOT, *(REPOSITORY / one / "src" for one in ("station", "line")))
        for module, path in modules_of(house).items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
        if NAMELESS.match(text)
    ]
    assert not nameless


MADE_OF_ROWS = {"scores", "map_maxima", "units", "miscounted", "line"}  # of a calibration


def nodes_of_the_library(*kinds):
    for module, path in ALL.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kinds):
                yield module, node


def calls_in_the_library():
    for module, node in nodes_of_the_library(ast.Call):
        yield module, ast.unparse(node.func), {one.arg for one in node.keywords}


def test_a_calibration_is_made_of_rows_at_one_place():
    """Each place that made one forgot another thing: units, lights, pictures counted wrong."""
    made = [module for module, name, _ in calls_in_the_library() if name.split(".")[-1] == "Calibration"]
    assert made == ["calibration.rows"]
    changed = {
        module for module, name, given in calls_in_the_library() if name == "replace" and given & MADE_OF_ROWS
    }
    assert changed == {"calibration.threshold"}  # without some of its own


def modules_that_call(*names):
    """Modules of the library that call one of these functions, each once."""
    return sorted({module for module, name, _ in calls_in_the_library() if name.split(".")[-1] in names})


def test_parts_are_numbered_at_one_place():
    """By names and by looks, among new pictures and against all that a model knows."""
    assert modules_that_call("_join", "next_unit") == ["pictures.units"]
    # who looks for copies without numbering parts: among the splits of a data set, and in an evaluation
    assert modules_that_call("compare_pictures") == [
        "datasets.copies",
        "pictures.near_duplicates",
        "pictures.units",
    ]
    assert modules_that_call("near_duplicates") == ["evaluation.promise", "evaluation.unlearnt"]
    # numbers that are given one after the other
    numbered = {
        module
        for module, node in nodes_of_the_library(ast.Call)
        if ast.unparse(node.func).endswith(".setdefault") and ast.unparse(node.args[-1]).startswith("len(")
    }
    assert numbered == {"pictures.units"}


def modules_that_import(module, name):
    """Modules of the library that import a name of another one."""
    return sorted(
        importer
        for importer, path in ALL.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == f"flawscope.{module}"
        if name in {one.name for one in node.names}
    )


def test_rows_are_scored_at_one_place():
    """Whoever has good pictures calls it with them: no row gets a score, counts or is lost elsewhere."""
    assert modules_that_import("calibration.rows", "judge") == ["predictor.scoring"]
    assert modules_that_import("predictor.scoring", "score") == [
        "export.recalibrate",
        "fitting.judging",
        "fitting.updated_models",
        "predictor.recalibration",
    ]
    columns = {"score", "maximum", "median"}
    assert {
        module for module, name, given in calls_in_the_library() if name == "replace" and given >= columns
    } == {"calibration.rows", "pictures.table"}  # in `judge`; forgotten, or read from a file


def test_what_is_left_out_is_run_at_one_place():
    """A unit is left out by a `run_of`, which `score` alone asks. Each kind of pictures has one: a session's,
    a fit's, a reduced precision's. Simulated defects, which are no rows, are scored on what is left out."""
    assert modules_that_call("run_without") == ["predictor.scoring"]
    calls = sorted((module, name) for module, name, _ in calls_in_the_library() if "leave_out" in name)
    called = [(module, name) for module, name in calls if re.search(r"leave_out\.\w+$", name)]
    assert called == [
        ("export.recalibrate", "leave_out.run"),
        ("fitting.judging", "leave_out.bound_run"),
        ("fitting.judging", "self.leave_out.run"),
        ("fitting.simulated_defects", "leave_out.score"),
        ("runtime.torch", "leave_out.run"),
    ]


def test_a_lost_picture_is_told_where_it_is_seen_and_counted_at_one_place():
    """Who has the pictures says which are lost, a session by the finding, a fit by the views; `judge` alone
    ranks them."""
    for finding in ("PART_NOT_FOUND", "COUNT_WRONG"):
        assert modules_that_import("results.findings", finding) == ["predictor.scoring"]
    assert modules_that_import("calibration.rows", "LOST") == ["fitting.judging", "predictor.scoring"]
    deciding = {module for module, node in nodes_of_the_library(ast.Attribute) if node.attr == "decides"}
    # a part is anomalous by a view, and a search takes a defect for found
    others = {"fitting.auto_search", "predictor.parts"}
    assert {module for module in deciding if not module.startswith("results.")} == {
        "predictor.scoring",
        *others,
    }


def test_lights_of_a_calibration_come_from_one_list():
    """Of the preprocessing; who measures other lights tells no rate by them."""
    assert modules_that_call("light_variations") == ["evaluation.benchmark.cell", "views.preprocess"]
    assert modules_that_call("Light") == [
        "evaluation.robustness",
        "pictures.still_frames",  # of frames, a measurement
        "views.light",
        "views.preprocess",
    ]
    scorers = modules_that_import("predictor.scoring", "score")
    lights = [
        ast.unparse(node.args[3])
        for module, node in nodes_of_the_library(ast.Call)
        if module in scorers and ast.unparse(node.func) == "score" and len(node.args) == 4
    ]
    assert len(lights) == len(scorers)
    assert all(re.fullmatch(r".*(preprocess|how)\.lights(\[:1\])?", one) for one in lights)


def test_what_a_model_expects_is_one_record():
    """Appearance, sizes, looks of views and the length of a pixel are written by it alone."""
    keys = {"APPEARANCE_KEY", "SIZES_KEY", "VIEW_LOOKS_KEY"}
    writers = {
        module
        for module, path in ALL.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript | ast.Dict)
        if keys & {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    }
    # the others read their own key
    assert writers == {"artefact.expected", "pictures.appearance", "pictures.form", "views.view_looks"}


def test_streams_of_random_numbers_stand_in_one_table():
    """A generator is made of a seed alone, or of a stream."""
    others = {
        module
        for module, path in ALL.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("default_rng")
        if node.args and isinstance(node.args[0], ast.List)
    }
    assert others == {
        "calibration.streams",
        "methods.training.prnet.prototypes",
        "methods.training.state",  # streams, and what other packages number by themselves
        "synthesis.demo.dataset",
        "testing.fits",
    }


def loaded_after(code):
    """Top-level names in sys.modules of a fresh interpreter after this code."""
    script = f"{code}\nimport sys, json\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def torch_free():
    """Modules that load no torch when they are imported."""
    return [
        name
        for name in ALL
        if (package_of(name) not in WITH_TORCH or name in WITHOUT_TORCH)
        and name not in ("__main__", "runtime.torch")
    ]


def test_nothing_torch_free_loads_torch():
    """One interpreter imports them all, and every method's record and settings; when it fails, the next loop
    says which."""
    modules = [f"flawscope.{name}".rstrip(".") for name in torch_free()]
    declared = "from flawscope.methods import registry; [m.configure() for m in registry.loadable_methods()]"
    loaded = loaded_after("\n".join([*(f"import {name}" for name in modules), declared]))
    guilty = loaded & {"torch", "timm", "torchvision", "sklearn", "matplotlib", "cv2"}
    if guilty:
        for name in modules:
            assert not loaded_after(f"import {name}") & guilty, name
    assert not guilty


@pytest.mark.parametrize(
    ("code", "libraries"),
    [
        ("import flawscope; flawscope.__version__; dir(flawscope)", "numpy PIL scipy torch yaml safetensors"),
        ("import flawscope.cluster.predict, flawscope.cluster.tasks", "ray pyarrow"),
        ("import flawscope.pages.review.server", "fastapi starlette sqlalchemy uvicorn torch"),
        # it takes longer than all the rest together
        ("import flawscope.predictor, flawscope.evaluation.metrics, flawscope.results.folder", "scipy"),
    ],
)
def test_what_is_imported_costs_no_more_than_it_needs(code, libraries):
    assert not loaded_after(code) & {*libraries.split()}


@pytest.mark.parametrize("words", ["--help", "--version", "fit --help", "fti", "predict --huh"])
def test_help_and_typing_errors_load_no_numpy(words):
    code = (
        "import io\nfrom contextlib import redirect_stderr, redirect_stdout, suppress\n"
        "from flawscope.cli import main\nout, err = io.StringIO(), io.StringIO()\n"
        "with redirect_stdout(out), redirect_stderr(err), suppress(SystemExit):\n"
        f"    main({words.split()!r})"
    )
    assert not loaded_after(code) & {"numpy", "PIL", "scipy", "torch", "yaml"}


METHODS = [module.removesuffix(".record") for module in registry.BUILT_IN.values()]


@pytest.mark.parametrize("package", [*METHODS, "flawscope.methods.training"])
def test_nobody_imports_a_method(package):
    """Nor does another one: what a method has beside the contract stands in its record. Nor does anything but
    `fit`, which tells how far a training was, import what learning by steps needs."""
    for name, path in ALL.items():
        if f"flawscope.{name}.".startswith(f"{package}.") or name == "cli.fit_one":
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


# Options of a fit that are words of other things, too
COMMON_WORDS = {"category", "group", "part", "view", "device", "seen", "channels", "force", "roi"}


def literals(tree):
    """Line and texts of each tuple, list, set and dict that a module has."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            yield node.lineno, {one.value for one in node.elts if isinstance(one, ast.Constant)}
        elif isinstance(node, ast.Dict):
            yield node.lineno, {one.value for one in node.keys if isinstance(one, ast.Constant)}
        elif isinstance(node, ast.Call):
            yield node.lineno, {one.arg for one in node.keywords if is_same(one.arg, one.value)}
        elif isinstance(node, ast.ClassDef):
            fields = [one.target.id for one in node.body if isinstance(one, ast.AnnAssign)]
            yield node.lineno, set(fields)


def is_same(name, value):
    """Whether a value is handed on by its own name: `roi=args.roi`."""
    return isinstance(value, ast.Attribute) and value.attr == name


def test_no_option_stands_in_a_second_list():
    """Three words of an option's record together elsewhere are a list of options: in a literal, among the
    fields of a class, or handed on one by one."""
    words = {*names_of(ARGUMENT)} - COMMON_WORDS
    lists = {}
    for root in (ROOT, Path(flawscope_station.__file__).parent):
        for path in sorted(root.rglob("*.py")):
            if path.parts[-2] == "options":
                continue
            for line, texts in literals(ast.parse(path.read_text(encoding="utf-8"))):
                if len(texts & words) > 2:
                    lists[f"{path.relative_to(root)}:{line}"] = sorted(texts & words)
    assert lists == {}
