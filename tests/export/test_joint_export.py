"""Exported joint models: in every engine and precision they answer, and recognise products, as before."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import flawscope  # noqa: E402
from flawscope.artefact import joint_file  # noqa: E402
from flawscope.artefact.certificate import CERTIFICATE_KEYS, certificates_from_facts  # noqa: E402
from flawscope.artefact.joint_file import EMBED_GRAPH, SCORE_GRAPH, JointArtefact  # noqa: E402
from flawscope.cli import main, models  # noqa: E402
from flawscope.errors import FlawscopeError, InputError  # noqa: E402
from flawscope.export import joint_export, onnx_graph  # noqa: E402
from flawscope.export.joint_export import export_joint  # noqa: E402
from flawscope.fitting import joint  # noqa: E402
from flawscope.fitting.fitting import fit  # noqa: E402
from flawscope.runtime import ENGINES  # noqa: E402

Shared = Callable[[str, Callable[[Path], Any]], Path]
PRODUCTS = ("fabric", "plate")
SIZE = 64


@pytest.fixture(scope="module")
def exported(two_products: Path, small_backbone: dict[str, str], shared: Shared) -> Path:
    """A folder with a joint model and its export; pictures are padded. Read only."""

    def fill(folder: Path) -> None:
        settings = {**small_backbone, "size": SIZE, "cap": 200, "keep_aspect": True, "check": False}
        models = {name: fit(two_products, category=name, device="cpu", **settings) for name in PRODUCTS}
        made = joint.join(models, {name: two_products / name for name in PRODUCTS}, device="cpu")
        made.save(folder / "line.safetensors")
        export_joint(folder / "line.safetensors", folder / "exported.safetensors")

    return shared("joint-export", fill)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


def opened(path: Path, engine: str | None = None) -> flawscope.JointPredictor:
    model = flawscope.load(path, device="cpu", engine=engine)
    assert isinstance(model, flawscope.JointPredictor)
    return model


def changed(artefact: JointArtefact, change: Callable[[Any], Any]) -> JointArtefact:
    return replace(artefact, products={name: change(one) for name, one in artefact.products.items()})


def test_it_answers_as_the_trained_one_and_knows_its_certificates(
    exported: Path, two_products: Path, engine: str
) -> None:
    trained, model = opened(exported / "line.safetensors"), opened(exported / "exported.safetensors", engine)
    assert model.session.runtime == engine
    paths = [str(path) for path in sorted(two_products.rglob("test/*/*.png"))]
    narrow = np.random.default_rng(0).integers(0, 256, (96, 40, 3)).astype(np.uint8)
    for one, other in zip(model.predict([*paths, narrow]), trained.predict([*paths, narrow]), strict=True):
        assert (one.product, one.product_p_value) == (other.product, other.product_p_value)
        assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-4)
        np.testing.assert_allclose(one.map, other.map, rtol=1e-3, atol=1e-3)
    assert model.predict(paths[0], product="plate").score == pytest.approx(
        trained.predict(paths[0], product="plate").score, rel=1e-4
    )
    for name, found in model.self_test().items():
        assert found.passed
        assert found.mistaken == 0
        certified = certificates_from_facts(model.products[name].manifest.facts)
        assert [one.runtime.split()[0] for one in certified] == [*ENGINES][: len(certified)]
        assert all(one.passed and one.mistaken == 0 for one in certified)


def test_a_file_from_before_openvino_opens_in_both(exported: Path, tmp_path: Path, engine: str) -> None:
    """Older files differ in the certificates alone."""

    def older(one: Any) -> Any:
        facts = {key: value for key, value in one.manifest.facts.items() if key != CERTIFICATE_KEYS[1]}
        del facts[CERTIFICATE_KEYS[0]]["mistaken"]
        return replace(one, manifest=replace(one.manifest, facts=facts))

    path = exported / "exported.safetensors"
    joint_file.write(changed(joint_file.read(path), older), tmp_path / "old.safetensors")
    model = opened(tmp_path / "old.safetensors", engine)
    assert all(found.passed for found in model.self_test().values())


def test_it_is_saved_but_neither_taken_apart_nor_exported_again(exported: Path, tmp_path: Path) -> None:
    path = exported / "exported.safetensors"
    model = opened(path, "onnxruntime")
    model.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match="no model by itself"):
        model.products["plate"].save(tmp_path / "plate.safetensors")
    with pytest.raises(InputError, match="an exported model"):
        export_joint(path, tmp_path / "twice.safetensors")
    with pytest.raises(InputError, match="name --out so"):
        export_joint(exported / "line.safetensors", tmp_path / "line.onnx")


def test_an_engine_that_does_not_run_it_is_one_line(exported: Path) -> None:
    with pytest.raises(InputError, match="use one of onnxruntime, openvino"):
        flawscope.load(exported / "exported.safetensors", engine="torch")
    with pytest.raises(InputError, match="torch runs it; export it first"):
        flawscope.load(exported / "line.safetensors", engine="openvino")
    bf16 = changed(joint_file.read(exported / "exported.safetensors"), in_bf16)
    with pytest.raises(InputError, match="its bf16 is OpenVINO's alone"):
        flawscope.runtime.open_joint_session(bf16, "onnxruntime")


def in_bf16(one: Any) -> Any:
    calibration = replace(one.manifest.calibration, precision="bf16")
    return replace(one, manifest=replace(one.manifest, calibration=calibration))


@pytest.mark.parametrize("which", [EMBED_GRAPH, SCORE_GRAPH])
def test_a_damaged_network_is_refused(exported: Path, tmp_path: Path, engine: str, which: str) -> None:
    """One with a loop, none at all, and the other one in its place."""
    artefact = joint_file.read(exported / "exported.safetensors")
    given = artefact.products["plate"].tensors
    network = onnx.load_from_string(given[which].tobytes())
    network.graph.node.append(onnx.helper.make_node("Loop", ["a", "b"], ["c"]))
    swapped = given[SCORE_GRAPH if which == EMBED_GRAPH else EMBED_GRAPH].tobytes()
    for data in (network.SerializeToString(), b"no network", swapped):
        bad = np.frombuffer(data, np.uint8)
        wrong = changed(artefact, lambda one, bad=bad: replace(one, tensors={**one.tensors, which: bad}))
        joint_file.write(wrong, tmp_path / "bad.safetensors")
        with pytest.raises(InputError, match="this joint model"):
            flawscope.load(tmp_path / "bad.safetensors", device="cpu", engine=engine)


# ------------------------------------------------------------------------------------------ less precisely


def test_pictures_find_their_product(exported: Path, two_products: Path, tmp_path: Path) -> None:
    """Those of a data root by its folders, others by what they show."""
    artefact = joint_file.read(exported / "line.safetensors")
    args = argparse.Namespace(model=str(exported / "line.safetensors"), pictures=str(two_products))
    in_folders = models._good_pictures(args, artefact)
    assert {name: len(found) for name, found in in_folders.items()} == dict.fromkeys(PRODUCTS, 12)
    for name, found in in_folders.items():
        for path in found:
            (tmp_path / f"{name}-{Path(path).name}").symlink_to(path)
    args.pictures = str(tmp_path)
    mixed = models._good_pictures(args, artefact)
    assert {name: {Path(p).name.split("-")[0] for p in found} for name, found in mixed.items()} == {
        name: {name} for name in PRODUCTS
    }
    assert sum(map(len, mixed.values())) == 24


def test_each_product_needs_pictures_for_another_precision(
    exported: Path, two_products: Path, tmp_path: Path
) -> None:
    some = {"fabric": [str(path) for path in sorted((two_products / "fabric/train/good").iterdir())]}
    with pytest.raises(InputError, match="plate: int8 is calibrated anew: give good pictures"):
        export_joint(
            exported / "line.safetensors", tmp_path / "m.safetensors", precision="int8", pictures=some
        )
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def without_bf16() -> Iterator[None]:
    """OpenVINO that takes the wish for bf16 also where the processor lacks it, and computes in fp32."""
    openvino = pytest.importorskip("flawscope.runtime.openvino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            openvino, "_precision_hint", lambda core, device, precision: openvino.PRECISION_HINTS[precision]
        )
        yield


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "bf16"])
@pytest.mark.usefixtures("without_bf16")
def test_another_precision_is_calibrated_and_recognised_anew(
    exported: Path,
    two_products: Path,
    tmp_path: Path,
    precision: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In int8 OpenVINO gives a network of drawn weights wrong, and gets no certificate for it."""
    engines = ["onnxruntime" if precision == "int8" else "openvino"]
    monkeypatch.setattr(joint_export, "engines_for", lambda precision: engines)
    line, out = exported / "line.safetensors", tmp_path / "reduced.safetensors"
    given = ["--precision", precision, "--pictures", str(two_products)]
    assert main(["export", str(line), "--out", str(out), *given]) == 0
    told = capsys.readouterr().out
    for name in PRODUCTS:
        assert sum(f"{name}: 12 pictures" in row and precision in row for row in told.splitlines()) == len(
            engines
        )
    trained, paths = opened(line), [str(path) for path in sorted(two_products.rglob("test/*/*.png"))]
    expected = trained.predict(paths)
    for engine in engines:
        model = opened(out, engine)
        for name, one in model.products.items():
            before = trained.products[name].calibration
            assert one.calibration.precision == precision
            np.testing.assert_allclose(one.calibration.scores, before.scores, rtol=0.1)
            assert certificates_from_facts(one.manifest.facts)[0].mistaken == 0
            now, then = model.artefact.descriptors[name], trained.artefact.descriptors[name]
            assert now.groups.tolist() == then.groups.tolist()
            np.testing.assert_allclose(now.leave_one_out, then.leave_one_out, atol=0.05)
            assert len(now.defective) == len(then.defective)
        for found, other in zip(model.predict(paths), expected, strict=True):
            assert found.product == other.product
            assert found.score == pytest.approx(other.score, rel=0.1)
        assert all(found.passed for found in model.self_test().values())
    if precision == "bf16":  # here the network is the same, and so is what it is cut into
        assert opened(out).session.runtime == "openvino"
    assert main(["evaluate", str(out), "--data", str(two_products), "--engine", engines[0]]) == 0
    assert main(["info", str(out), "--self-test", "--engine", engines[0]]) == 0


@pytest.mark.slow
def test_a_network_that_mistakes_products_gets_no_certificate(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scores are right: only the descriptors point elsewhere."""
    traced = onnx_graph.trace_joint_embed

    def elsewhere(*given: Any) -> Any:
        proto = traced(*given)
        for node in proto.graph.node:
            node.output[:] = ["right" if name == "descriptors" else name for name in node.output]
        proto.graph.node.append(onnx.helper.make_node("Neg", ["right"], ["descriptors"]))
        return proto

    monkeypatch.setattr(onnx_graph, "trace_joint_embed", elsewhere)
    with pytest.raises(FlawscopeError, match=r"fabric: .* \d+ products? mistaken"):
        export_joint(exported / "line.safetensors", tmp_path / "m.safetensors")
    assert not [*tmp_path.iterdir()]
