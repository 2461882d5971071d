"""The chain's short form, and that it notices what was changed in an exported model with right hashes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import flawscope
from flawscope.artefact.certificate import TOLERANCE
from flawscope.artefact.model_file import Manifest
from flawscope.predictor import Predictor

for needed in ("torch", "onnx", "onnxscript", "openvino"):
    pytest.importorskip(needed)

from flawscope.export import onnx_graph  # noqa: E402
from flawscope.runtime import onnx as onnx_files  # noqa: E402
from flawscope.runtime import openvino as openvino_files  # noqa: E402

pytestmark = pytest.mark.slow

SUFFIXES = (".onnx", ".xml")
RUNTIMES = {".onnx": "onnxruntime", ".xml": "openvino"}
Lines = Callable[..., list[str]]


@pytest.fixture(scope="session")
def chain() -> Iterator[ModuleType]:
    """tools/chain.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
        yield importlib.import_module("chain")


@pytest.fixture(scope="session")
def agreement(chain: ModuleType) -> ModuleType:
    """tools/agreement.py."""
    return importlib.import_module("agreement")


@pytest.fixture(scope="session")
def done(chain: ModuleType, shared: Any, trace_once: Any) -> Path:
    """A folder in which PatchCore went through the chain: its pictures, its models and `rows.json`. Read
    only."""

    def fill(work: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx_graph, "trace", trace_once)
            rows = list(chain.run("patchcore", chain.draw(work, train=8, good=2), work, {"size": "64"}))
        (work / "rows.json").write_text(json.dumps([asdict(row) for row in rows]))

    return shared("chain", fill)


@pytest.fixture(scope="session")
def rows(chain: ModuleType, done: Path) -> list[Any]:
    return [chain.Row(**row) for row in json.loads((done / "rows.json").read_text())]


@pytest.fixture(scope="session")
def expected(chain: ModuleType, done: Path) -> Any:
    model = flawscope.load(done / "patchcore.safetensors", device="cpu")
    return chain.Expected.of(model, done / "data/plate")


@pytest.fixture
def lines(chain: ModuleType, expected: Any) -> Lines:
    """lines(path or model, precision="fp32"): what the chain has to say of it."""

    def of(model: Any, precision: str = "fp32") -> list[str]:
        model = flawscope.load(model) if isinstance(model, Path) else model
        compared = chain.compare(expected, model, chain.Row("patchcore", model.session.runtime, precision))
        return [line for row in compared for line in row.deviations]

    return of


def named(found: list[str], step: str) -> list[str]:
    return [line for line in found if f": {step}: " in line]


def with_manifest(model: Predictor, **changes: Any) -> Predictor:
    manifest: Manifest = replace(model.manifest, **changes)
    return Predictor(replace(model.artefact, manifest=manifest), model.session)


# ------------------------------------------------------------------------------------------- the short form


def test_patchcore_agrees_in_every_combination(agreement: ModuleType, rows: list[Any]) -> None:
    from flawscope.export.export import PRECISIONS

    assert [line for row in rows for line in row.deviations] == []
    ran = {(row.runtime, row.precision, row.batch) for row in rows if not row.skipped}
    wanted = {("torch", "fp32", batch) for batch in agreement.BATCHES} | {("command line", "fp32", None)}
    wanted |= {(RUNTIMES[s], p, b) for s in SUFFIXES for p in PRECISIONS[s] for b in agreement.BATCHES}
    without = {("openvino", "bf16", batch) for batch in agreement.BATCHES}
    assert ran in (wanted, wanted - without)
    for row in rows:
        if row.batch:
            assert "AUROC" in row.numbers
            assert row.numbers["preprocess tensor"] == 0.0
            assert row.numbers["predict score"] <= TOLERANCE[row.precision]
    # what is compared is no copy of itself
    others = [row for row in rows if row.batch and row.runtime != "torch"]
    assert all(row.numbers["predict map maximum"] > 0 for row in others)


def test_prnet_agrees(
    chain: ModuleType, done: Path, trace_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "trace", trace_once)
    settings = {**chain.SMALL["prnet"], "steps": 3}
    found = list(chain.run("prnet", done / "data/plate", tmp_path, settings, precisions=("fp32",)))
    assert [line for row in found for line in row.deviations] == []
    assert {row.runtime for row in found} == {"torch", "onnxruntime", "openvino", "command line"}


def test_the_table_and_the_exit_code(
    chain: ModuleType, rows: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chain, "run", lambda *_: iter(rows))
    monkeypatch.setattr(chain, "draw", lambda work: work)
    assert chain.main(["--methods", "patchcore"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)
    wrong = replace(rows[2], deviations=["this is wrong", "and this"])
    monkeypatch.setattr(chain, "run", lambda *_: iter([*rows, wrong]))
    assert chain.main(["--methods", "patchcore"]) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == ["this is wrong", "and this"]


# ------------------------------------------------------------------------------------------ what it notices


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_was_only_written_again_agrees(
    suffix: str, done: Path, tmp_path: Path, lines: Lines
) -> None:
    out = tmp_path / f"model{suffix}"
    flawscope.load(done / f"patchcore-fp32{suffix}").save(out)
    assert lines(out) == []


@pytest.mark.parametrize(
    ("suffix", "change"),
    [
        (".onnx", {"keep_aspect": True}),
        (".onnx", {"size": (72, 72), "crop": (64, 64)}),
        (".onnx", {"white_level": 40000.0}),
        (".xml", {"keep_aspect": True}),
    ],
)
def test_a_constant_of_the_preprocessing(
    suffix: str, change: dict[str, Any], done: Path, tmp_path: Path, lines: Lines
) -> None:
    model = flawscope.load(done / f"patchcore-fp32{suffix}")
    out = tmp_path / f"model{suffix}"
    with_manifest(model, preprocess=replace(model.manifest.preprocess, **change)).save(out)
    found = lines(out)
    assert len(named(found, "preprocess")) == 1
    assert named(found, "predict")


@pytest.mark.parametrize(
    ("suffix", "precision", "which"),
    [
        *((".onnx", "fp32", which) for which in ("all scores", "one score", "map maxima", "rate")),
        (".xml", "fp32", "one score"),
        (".onnx", "int8", "one score"),
    ],
)
def test_a_threshold(
    suffix: str, precision: str, which: str, done: Path, expected: Any, tmp_path: Path, lines: Lines
) -> None:
    model = flawscope.load(done / f"patchcore-{precision}{suffix}")
    before = model.calibration
    far = 2 * (before.threshold - float(np.median(before.scores)))
    top = float(expected.answers.scores.max())  # so high, nothing is anomalous
    lowest = int(np.argmin(before.scores))  # what the threshold does not depend on
    after = {
        "all scores": replace(before, scores=tuple(s + top for s in before.scores)),
        "one score": replace(
            before, scores=tuple(s + far * (k == lowest) for k, s in enumerate(before.scores))
        ),
        "map maxima": replace(before, map_maxima=tuple(1.5 * m for m in before.map_maxima)),
        "rate": before.with_rate(0.3),
    }[which]
    out = tmp_path / f"model{suffix}"
    with_manifest(model, calibration=after).save(out)
    found = lines(out, precision)
    assert named(found, "calibration")
    assert not named(found, "preprocess")
    if which == "all scores":
        assert any(" is called good, not anomalous" in line for line in named(found, "predict"))


@pytest.mark.parametrize(
    ("suffix", "precision", "part"),
    [
        (".onnx", "fp32", "first"),
        (".onnx", "fp32", "last"),
        (".onnx", "fp16", "middle"),
        (".xml", "fp32", "middle"),
    ],
)
def test_a_vector_of_the_memory_bank(
    suffix: str, precision: str, part: str, done: Path, expected: Any, tmp_path: Path, lines: Lines
) -> None:
    bank = expected.predictor.artefact.tensors["views.0.bank"]
    number = {"first": 0, "middle": len(bank) // 2, "last": len(bank) - 1}[part]

    def moved(values: np.ndarray) -> np.ndarray | None:
        """With this vector a little longer, whichever way the bank stands there."""
        for rows in (values, values.T):
            if rows.shape == bank.shape and np.array_equal(rows[number], bank[number].astype(values.dtype)):
                changed = rows.copy()
                changed[number] *= values.dtype.type(1.1)
                return changed if rows is values else np.ascontiguousarray(changed.T)
        return None

    found = lines(altered(done / f"patchcore-{precision}{suffix}", moved, tmp_path), precision)
    assert any(": predict: map error of " in line for line in found)
    assert not named(found, "calibration")
    assert not named(found, "preprocess")


def test_a_constant_of_the_normalisation(done: Path, tmp_path: Path, lines: Lines) -> None:
    """What is in the network itself: pictures are brought from 0..1 to the backbone's range there."""

    def brighter(values: np.ndarray) -> np.ndarray | None:
        return values * np.float32(1.02) if values.shape == (1, 3, 1, 1) else None

    assert named(lines(altered(done / "patchcore-fp32.onnx", brighter, tmp_path)), "predict")


Change = Callable[[np.ndarray], np.ndarray | None]


def altered(path: Path, change: Change, folder: Path) -> Path:
    """An exported model with other constants, and with hashes that are right."""
    out = folder / path.name
    if path.suffix == ".onnx":
        import onnx
        from onnx import numpy_helper

        network = onnx.load(path)
        count = 0
        for tensor in network.graph.initializer:
            found = change(numpy_helper.to_array(tensor))
            if found is not None:
                tensor.CopyFrom(numpy_helper.from_array(found, tensor.name))
                count += 1
        assert count
        onnx_files.write(onnx_files.read(path), network.SerializeToString(), out)
    else:
        ov = openvino_files.engine()
        model = ov.Core().read_model(str(path))
        count = 0
        for constant in model.get_ops():
            if constant.get_type_name() == "Constant" and constant.get_element_type() == ov.Type.f32:
                found = change(constant.get_data())
                if found is not None:
                    other = ov.opset13.constant(found)
                    for target in constant.output(0).get_target_inputs():
                        target.replace_source_output(other.output(0))
                    count += 1
        assert count
        openvino_files.write(openvino_files.read(path), model, out)
    return out


def test_a_batch_that_mixes_its_pictures(done: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    run = onnx_files.OnnxSession.run

    def mixed(self: Any, images: Any) -> Any:
        scores, maps = run(self, images)
        return scores[::-1].copy(), maps[::-1].copy()

    monkeypatch.setattr(onnx_files.OnnxSession, "run", mixed)
    found = lines(done / "patchcore-fp32.onnx")
    assert named(found, "batch")
    assert all(" batch 3: " in line for line in found)


def test_metrics_that_are_not_those_of_the_scores(
    agreement: ModuleType, done: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = agreement.evaluate

    def other(*given: Any) -> Any:
        result = evaluate(*given)
        return replace(result, metrics={**result.metrics, "image_auroc": result.metrics["image_auroc"] / 2})

    monkeypatch.setattr(agreement, "evaluate", other)
    found = lines(done / "patchcore-fp32.onnx")
    assert len(found) == len(named(found, "evaluate")) == 2


def test_scores_that_are_no_numbers(chain: ModuleType) -> None:
    row = chain.Row("patchcore", "torch", "fp32", 1)
    row.within("predict", "score", np.array([1, np.nan]), np.ones(2), np.ones(2), 1e-4, ["a", "b"])
    assert len(row.deviations) == 1
    assert "score of b is nan" in row.deviations[0]


def test_areas_by_hand(agreement: ModuleType) -> None:
    """Of six pairs four are right and one is a tie."""
    truth = np.array([True, True, False, False, False])
    assert agreement.auroc(truth, np.array([3.0, 1.0, 0.0, 1.0, 2.0])) == pytest.approx(4.5 / 6)
