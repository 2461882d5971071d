"""Exported routers: in every engine they answer, and recognise products, as before."""

import argparse
import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

import flawscope
from export_helpers import opened
from flawscope.artefact.certificate import certificates_from_facts
from flawscope.cli import models
from flawscope.errors import InputError
from flawscope.export.router_export import export_router
from flawscope.runtime import ENGINES


def repacked(path, out, change, kind=0):
    """The archive with other contents. kind: of compression."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return out


def test_it_answers_as_the_trained_one_and_knows_its_certificates(routers, two_products, engine):
    trained, model = opened(routers / "line.safetensors"), opened(routers / "line.zip", engine)
    assert {one.session.runtime for one in model.products.values()} == {engine}
    paths = [str(path) for path in sorted(two_products.rglob("test/*/*.png"))]
    narrow = np.random.default_rng(0).integers(0, 256, (96, 40, 3)).astype(np.uint8)
    for one, other in zip(model.predict([*paths, narrow]), trained.predict([*paths, narrow]), strict=True):
        assert (one.product, one.product_p_value) == (other.product, other.product_p_value)
        assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-4)
        np.testing.assert_allclose(one.map, other.map, rtol=1e-3, atol=1e-3)
    for name, found in model.self_test().items():
        assert found.passed
        assert found.mistaken == 0
        certified = certificates_from_facts(model.products[name].manifest.facts)
        assert [one.runtime.split()[0] for one in certified] == [*ENGINES][: len(certified)]
        assert all(one.passed for one in certified)


def test_each_file_in_it_is_an_ordinary_exported_model(routers, two_products, tmp_path, engine):
    with zipfile.ZipFile(routers / "line.zip") as archive:
        archive.extract("plate.onnx", tmp_path)
        onnx.checker.check_model(onnx.load_from_string(archive.read("recognition.onnx")))
    onnx.checker.check_model(onnx.load(tmp_path / "plate.onnx"))
    alone = flawscope.load(tmp_path / "plate.onnx", engine=engine)
    path = two_products / "plate/test/good/000.png"
    model = opened(routers / "line.zip", engine)
    assert alone.predict(path).score == pytest.approx(model.predict(path).score, rel=1e-5)
    model.products["plate"].save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "plate.onnx").read_bytes()


def test_it_is_saved_as_it_is_and_at_another_rate(routers, tmp_path):
    model = opened(routers / "line.zip", "onnxruntime")
    model.save(tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (routers / "line.zip").read_bytes()
    model.with_rate("20%").save(tmp_path / "other.zip")
    found = opened(tmp_path / "other.zip", "onnxruntime")
    assert {one.calibration.rate for one in found.products.values()} == {0.2}
    with pytest.raises(InputError, match=r"this router is saved as \.zip"):
        model.save(tmp_path / "line.safetensors")


def test_what_cannot_be_exported_is_one_line(routers, tmp_path):
    with pytest.raises(InputError, match=r"should end in \.zip"):
        export_router(routers / "line.safetensors", tmp_path / "line.onnx")
    with pytest.raises(InputError, match="no product bottle: it knows fabric, plate"):
        export_router(routers / "line.safetensors", tmp_path / "line.zip", only="bottle")
    with pytest.raises(InputError, match=r"plate: .*give good pictures"):
        export_router(
            routers / "line.safetensors", tmp_path / "line.zip", precision="bf16", only="plate"
        ) if importlib.util.find_spec("openvino") else pytest.skip(
            'no OpenVINO: pip install "flawscope[openvino]"'
        )
    with pytest.raises(InputError, match="is an exported model"):
        export_router(routers / "line.zip", tmp_path / "twice.zip")
    assert not [*tmp_path.iterdir()]


def test_an_engine_that_does_not_run_it_is_one_line(routers):
    with pytest.raises(InputError, match="use one of onnxruntime, openvino"):
        flawscope.load(routers / "line.zip", engine="torch")
    with pytest.raises(InputError, match="torch runs it; export it first"):
        flawscope.load(routers / "line.safetensors", engine="openvino")


@pytest.mark.parametrize("which", ["plate.onnx", "recognition.onnx"])
def test_a_damaged_network_is_refused(routers, tmp_path, engine, which):
    """One with a loop, none at all, and another one in its place."""
    with zipfile.ZipFile(routers / "line.zip") as archive:
        given = {name: archive.read(name) for name in archive.namelist()}
    network = onnx.load_from_string(given[which])
    network.graph.node.append(onnx.helper.make_node("Loop", ["a", "b"], ["c"]))
    swapped = given["fabric.onnx" if which == "recognition.onnx" else "recognition.onnx"]
    for data in (network.SerializeToString(), b"no network", swapped):
        bad = repacked(
            routers / "line.zip", tmp_path / "bad.zip", lambda of, data=data: of.update({which: data})
        )
        with pytest.raises(InputError, match="cannot use"):
            flawscope.load(bad, device="cpu", engine=engine)


def test_an_archive_that_lacks_something_is_one_clear_line(routers, tmp_path):
    for name in ("plate.onnx", "recognition.onnx", "recognition.npz", "router.json"):
        bad = repacked(
            routers / "line.zip", tmp_path / "bad.zip", lambda of, name=name: of.pop(name) and None
        )
        with pytest.raises(
            InputError, match="no model of several products, or what it holds is damaged"
        ) as found:
            flawscope.load(bad, device="cpu")
        assert "\n" not in str(found.value)
    packed = repacked(routers / "line.zip", tmp_path / "packed.zip", lambda of: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="in it is compressed"):
        flawscope.load(packed, device="cpu")
    cut = (routers / "line.zip").read_bytes()[:-30]
    (tmp_path / "cut.zip").write_bytes(cut)
    with pytest.raises(InputError, match="no model of several products, or damaged"):
        flawscope.load(tmp_path / "cut.zip", device="cpu")


def test_pictures_find_their_product(routers, two_products, tmp_path):
    """Those of a data root by its folders, others by what they show."""
    args = argparse.Namespace(model=str(routers / "line.safetensors"), pictures=str(two_products))
    in_folders = models._good_pictures(args)
    assert {name: len(found) for name, found in in_folders.items()} == {"fabric": 12, "plate": 12}
    for name, found in in_folders.items():
        for path in found:
            (tmp_path / f"{name}-{Path(str(path)).name}").symlink_to(str(path))
    args.pictures = str(tmp_path)
    mixed = models._good_pictures(args)
    assert {name: {Path(str(p)).name.split("-")[0] for p in found} for name, found in mixed.items()} == {
        name: {name} for name in in_folders
    }
    assert sum(map(len, mixed.values())) == 24
