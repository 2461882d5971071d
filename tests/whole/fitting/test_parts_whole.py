"""`fit --part`: one decision on all views of a part, from the folder to the results."""

import csv
import json

import numpy as np
from PIL import Image

import flawscope
from flawscope.cli import main
from flawscope.predictor.parts import compare_view
from parts_helpers import QUICK, VIEWS, data_fixture, model_fixture, view  # noqa: F401
from picture_files import save


def test_real_iad_has_figures_of_pictures_pixels_and_samples(tmp_path, capsys):
    """Its samples are numbered anew in OK and in each folder of a defect."""
    root = tmp_path / "Real-IAD/realiad_256/mint"
    split = {"meta": {"normal_class": "OK", "prefix": "mint/"}}
    for name, kind, parts in (
        ("train", "OK", range(20)),
        ("test", "OK", range(20, 25)),
        ("test", "BX", range(20, 24)),
    ):
        for part in parts:
            for k in (0, 1):
                bad = kind == "BX" and k == 1  # the other view shows nothing of it
                folder, words = ("OK", "_{:04}_OK") if kind == "OK" else ("NG/BX", "__{:04}_NG_BX")
                place = f"{folder}/S{part:04}/mint{words.format(part)}_C{k + 1}_20231023092610"
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(view(part + 100 * (kind == "BX"), k, bad)).save(root / f"{place}.jpg")
                if bad:
                    mask = np.zeros((80, 80), np.uint8)
                    mask[34:44, 44:54] = 255
                    Image.fromarray(mask).save(root / f"{place}.png")
                row = {"anomaly_class": kind if bad else "OK", "image_path": f"{place}.jpg"}
                row["mask_path"] = f"{place}.png" if bad else None
                split.setdefault(name, []).append(row)
    split["test"].sort(key=lambda row: "_C2_" in row["image_path"])  # parts come interleaved
    table = root.parents[1] / "realiad_jsons/realiad_jsons/mint.json"
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps(split))
    out = str(tmp_path / "mint.safetensors")
    how = ["--part", r"\d+_(?:OK|NG_[A-Z]+)", "--view", r"_(C\d)_", "--no-each-view", "--size", "64"]
    how += ["--device", "cpu"]
    call = ["--data", str(root), "--out", out, *how, "--no-check", "--evaluate", "--json", "--quiet"]
    assert main(["fit", *call]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["kinds"]["BX"]["images"]) == (18, 4)
    assert found["metrics"]["image_auroc"] > 0.9
    assert found["metrics"]["pixel_auroc"] > 0.9
    parts = found["parts"]
    assert [parts[key] for key in ("good", "defective", "found", "incomplete", "auroc")] == [5, 4, 4, 0, 1.0]


def test_parts_are_decided_on_by_all_views(data, model, tmp_path, answer):
    promise = "parts of 2 views (side, top): about 1 of 21 good parts will be called anomalous"
    answer("info", model, printed=promise)
    (data / "test" / "hole" / "p63_side.png").unlink()
    call = ["predict", model, data / "test" / "hole", "--json", "--out", tmp_path / "out"]
    lines = [json.loads(line) for line in answer(*call, "--fail-on-anomaly", code=3).splitlines()]
    parts = {line["part"]: line for line in lines if "part" in line}
    assert (len(lines), {*parts}) == (7 + 4, {"p60", "p61", "p62", "p63"})
    assert {(p["decision"], p["worst"]) for p in parts.values()} == {("anomalous", "top")}
    assert (parts["p62"]["p_value"], parts["p63"]["missing"]) == (1 / 21, ["side"])
    assert set(parts["p60"]["views"]) == set(VIEWS)
    rows = list(csv.DictReader((tmp_path / "out" / "parts.csv").open(encoding="utf-8-sig")))
    assert [(row["part"], row["missing"]) for row in rows][-1] == ("p63", "side")
    found = json.loads(answer("evaluate", model, "--data", data, "--json"))["parts"]
    assert (found["good"], found["defective"], found["found"], found["auroc"]) == (6, 4, 4, 1.0)
    answer("evaluate", model, "--data", data, printed="4 of 4 defective found, AUROC 1.0000")


def test_pages_show_parts(data, model, tmp_path):
    how = ["--out", str(tmp_path), "--quiet"]
    assert main(["evaluate", str(model), "--data", str(data), *how]) == 0
    text = " ".join((tmp_path / "report.html").read_text(encoding="utf-8").split())
    assert "of 4 defective parts found" in text
    assert text.count('data-order="parts"') >= 2 * (6 + 4) * 2 - 2  # a picture and a button for each view
    rows = list(csv.DictReader((tmp_path / "parts.csv").open(encoding="utf-8-sig")))
    assert sum(row["decision"] == "anomalous" for row in rows) >= 4
    assert main(["predict", str(model), str(data / "test" / "good"), *how]) == 0
    text = " ".join((tmp_path / "report.html").read_text(encoding="utf-8").split())
    assert "of 6 parts anomalous" in text
    assert text.count('data-order="parts"') == 2 * 6 * 2


def test_update_calibrate_and_export_keep_parts(bf16_in_name, data, model, tmp_path):
    predictor = flawscope.load(model, device="cpu")
    new = {f"p{part}_{name}.png": view(part, k) for part in range(30, 36) for k, name in enumerate(VIEWS)}
    more = save(tmp_path / "more", new)
    larger = flawscope.extend(model, more, device="cpu", check=False, fair=True)
    assert len(larger.parts().calibration.parts) == 26
    anew = predictor.calibrate(more, force=True)
    assert anew.parts().calibration.parts == tuple(f"p{k}" for k in range(30, 36))
    from flawscope.export.export import export

    out = tmp_path / "bf16.onnx"
    export(model, out, precision="bf16", pictures=sorted((data / "train" / "good").glob("*.png")))
    found = flawscope.load(out, threads=1).predict_part({"side": view(71, 0), "top": view(71, 1, True)})
    assert (found.is_anomalous, found.worst, found.p_value) == (True, "top", 1 / 21)


def third(part, k):
    """Two views as `view` has them, and a third one, in which the part lies elsewhere."""
    return view(part, k) if k < 2 else np.roll(view(part, 0), 18, axis=0)


def test_no_good_part_of_three_views_is_called_exchanged_and_each_exchange_is(tmp_path):
    names = ("a", "b", "c")
    named = {f"p{k:02}_{v}.png": third(k, n) for k in range(20) for n, v in enumerate(names)}
    good = save(tmp_path / "good", named)
    predictor = flawscope.fit(str(good), part=r"p\d+", each_view=False, **QUICK)
    by_view = flawscope.fit(str(good), part=r"p\d+", **QUICK)  # a model of one view sees no other view
    for k in range(100, 130):
        pictures = [third(k, n) for n in range(3)]
        assert all(
            not one.findings
            for one in predictor.predict_part(dict(zip(names, pictures, strict=True))).views.values()
        )
    for order in ((1, 0, 2), (0, 2, 1), (1, 2, 0)):
        found = predictor.predict_part({v: pictures[n] for v, n in zip(names, order, strict=True)})
        exchanged = [v for v, one in found.views.items() if one.findings]
        shown = {v: pictures[n] for v, n in zip(names, order, strict=True)}
        assert by_view.predict_part(shown).is_anomalous
        assert exchanged == [v for v, n, m in zip(names, order, range(3), strict=True) if n != m]
        assert found.is_anomalous
    assert compare_view(predictor.view_looks, "a", predictor.predict(pictures[1])).is_anomalous
