"""Exports of labelling tools, made by hand from their published formats, read to the pixel."""

import base64
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from flawscope.datasets import open_dataset
from flawscope.datasets.check import check
from flawscope.datasets.labels import PictureLabels
from flawscope.datasets.labels.forms import EXPECTED
from flawscope.datasets.labels.shapes import filled, from_runs
from flawscope.datasets.masks import union_masks
from flawscope.errors import InputError

H, W = 48, 64
Y, X = np.mgrid[:H, :W] + 0.5  # centres of the pixels


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def triangle(*corners):
    sides = [
        (b[0] - a[0]) * (Y - a[1]) - (b[1] - a[1]) * (X - a[0])
        for a, b in zip(corners, (*corners[1:], corners[0]), strict=True)
    ]
    return np.all(np.array(sides) > 0, 0) | np.all(np.array(sides) < 0, 0)


def seen_from(x, y, degrees):
    """Coordinates of the pixels along axes at (x, y) that are turned clockwise."""
    angle = np.radians(degrees)
    dx, dy = X - x, Y - y
    return dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)


def oval(x, y, rx, ry, degrees=0):
    u, v = seen_from(x, y, degrees)
    return (u / rx) ** 2 + (v / ry) ** 2 < 1


BOX = rectangle(5, 10, 30, 20)
CORNERS = [[40.3, 5.2], [60.1, 8.4], [45.6, 40.3]]  # no centre of a pixel lies on a side
TRIANGLE = triangle(*CORNERS)
ELL = rectangle(5, 10, 30, 20) | rectangle(5, 20, 12, 40)
ELL_CORNERS = [[5, 10], [30, 10], [30, 20], [12, 20], [12, 40], [5, 40]]
u, v = seen_from(32, 24, 30)
TURNED = (abs(u) < 15) & (abs(v) < 5)  # 30 x 10 around (32, 24)
u, v = seen_from(32, 8, 40)
SWUNG = (u > 0) & (u < 16) & (v > 0) & (v < 12)  # 16 x 12, around its first corner (32, 8)


def runs(mask):
    """Run lengths along a flat mask, unmarked pixels first."""
    lengths, value = [0], False
    for marked in mask:
        if marked != value:
            lengths.append(0)
            value = not value
        lengths[-1] += 1
    return lengths


def compressed(lengths):
    """COCO's compressed run lengths: LEB128 of differences, six bits a character."""
    text = ""
    for k, length in enumerate(lengths):
        number = length - (lengths[k - 2] if k > 2 else 0)
        while True:
            low, number = number & 31, number >> 5
            more = number != (-1 if low & 16 else 0)
            text += chr(48 + low + 32 * more)
            if not more:
                break
    return text


def brush(mask, *, literal=False):
    """Label Studio's run lengths of a mask."""
    alpha = np.zeros((H, W, 4), np.uint8)
    alpha[mask] = (12, 34, 56, 255)
    values = alpha.ravel()
    bits = f"{values.size:032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    at = 0
    while at < values.size:
        same = 1
        while at + same < values.size and values[at + same] == values[at] and same < 60_000:
            same += 1
        if literal and same < 8:
            count = min(8, values.size - at)
            bits += "0" + f"{2:02b}{count - 1:08b}" + "".join(f"{v:08b}" for v in values[at : at + count])
            at += count
        else:
            bits += "1" + f"{3:02b}{same - 1:016b}{values[at]:08b}"
            at += same
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


def png(mask):
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


class Export(NamedTuple):
    """Files of an export beside bad/dent/part_7.png, what they mark, and how many boxes of which kinds."""

    files: dict[str, str]
    mask: np.ndarray
    boxes: int = 0
    kinds: str = "dent"  # one word each, "" where a mark has none
    picture: str = "bad/dent/part_7.png"


def coco(name, *annotations, **image):
    return json.dumps(
        {
            "info": {"description": ""},
            "licenses": [],
            "images": [{"id": 3, "file_name": name, "width": W, "height": H, **image}],
            "annotations": [
                {"id": k, "image_id": 3, "category_id": 2, "iscrowd": 0, **a}
                for k, a in enumerate(annotations)
            ],
            "categories": [
                {"id": 1, "name": "defects"},
                {"id": 2, "name": "dent", "supercategory": "defects"},
            ],
        }
    )


def flat(corners):
    return [number for corner in corners for number in corner]


def shares(corners):
    return " ".join(f"{x / W:.8f} {y / H:.8f}" for x, y in corners)


def voc(*objects, name="part_7.png"):
    return f"""<annotation>
  <folder>VOC2012</folder><filename>{name}</filename><source><database>Unknown</database></source>
  <size><width>{W}</width><height>{H}</height><depth>3</depth></size><segmented>0</segmented>
  {"".join(f"<object><name>dent</name><difficult>0</difficult>{text}</object>" for text in objects)}
</annotation>"""


def bndbox(x0, y0, x1, y1):
    return f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"


def cvat(*elements, name="part_7.png"):
    return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><id>4</id><mode>annotation</mode></task></meta>
  <image id="0" name="{name}" width="{W}" height="{H}">{"".join(elements)}</image>
</annotations>"""


def percent(corners):
    return [[x / W * 100, y / H * 100] for x, y in corners]


def region(kind, **value):
    return {
        **{"id": kind + str(len(value)), "type": kind, "from_name": "label", "to_name": "image"},
        **{"original_width": W, "original_height": H, "image_rotation": 0, "origin": "manual"},
        "value": {**value, kind: ["dent"]},
    }


def task(*result, **rest):
    annotation = {"id": 1, "completed_by": 1, "was_cancelled": False, "result": list(result)}
    data = {"image": "/data/upload/1/1a2b3c4d-part_7.png"}
    return {"id": 9, "file_upload": "1a2b3c4d-part_7.png", "data": data, "annotations": [annotation], **rest}


def via(regions, *, project=False, name="part_7.png"):
    pictures = {f"{name}81234": {"filename": name, "size": 81234, "regions": regions, "file_attributes": {}}}
    if not project:
        return json.dumps(pictures)
    settings = {"_via_settings": {"core": {}}, "_via_attributes": {"region": {}, "file": {}}}
    return json.dumps({**settings, "_via_img_metadata": pictures, "_via_data_format_version": "2.0.10"})


def via_region(attributes=None, **shape):
    return {
        "shape_attributes": shape,
        "region_attributes": {"type": "dent"} if attributes is None else attributes,
    }


def labelme(*shapes):
    marks = [{"label": "dent", "group_id": None, "flags": {}, **shape} for shape in shapes]
    size = {"imageHeight": H, "imageWidth": W}
    return json.dumps({"version": "5.4.1", "flags": {}, "shapes": marks, "imagePath": "part_7.png", **size})


BOX_SHARE = f"{17.5 / W:.8f} {15 / H:.8f} {25 / W:.8f} {10 / H:.8f}"
ROBOFLOW = "part_7_png.rf.3c1f5ab2c1d94b8f9a8e0d7c6b5a4f3e"
STREAM = brush(TRIANGLE, literal=True)
ELL_X, ELL_Y = ([corner[k] for corner in ELL_CORNERS] for k in (0, 1))

# fmt: off
EXPORTS = {
    "COCO, boxes": Export(
        {"annotations/instances_default.json": coco("part_7.png", {"bbox": [5, 10, 25, 10]})}, BOX, 1),
    "COCO, polygons of parts": Export(
        {"coco.json": coco("dent/part_7.png", {"segmentation": [flat(ELL_CORNERS), flat(CORNERS)]})},
        ELL | TRIANGLE, kinds="dent dent"),
    "COCO, run lengths of both forms": Export({"coco.json": coco("part_7.png",
        {"segmentation": {"size": [H, W], "counts": runs(ELL.T.ravel())}, "iscrowd": 1},
        {"segmentation": {"size": [H, W], "counts": compressed(runs(TRIANGLE.T.ravel()))}})},
        ELL | TRIANGLE, kinds="dent dent"),
    "Roboflow, COCO": Export({"bad/_annotations.coco.json": coco(f"{ROBOFLOW}.jpg",
        {"segmentation": [flat(ELL_CORNERS)], "bbox": [5, 10, 25, 30]}, extra={"name": "part_7.png"})}, ELL),
    "Roboflow, YOLO": Export({
        f"bad/labels/{ROBOFLOW}.txt": f"1 {shares([*CORNERS, CORNERS[0]])}",
        "data.yaml": "train: ../train/images\nnc: 2\nnames: ['scratch', 'dent']\nroboflow: {}\n"},
        TRIANGLE, picture=f"bad/images/{ROBOFLOW}.png"),
    "Roboflow, VOC": Export({f"bad/dent/{ROBOFLOW}.xml": voc(bndbox(40, 5, 60, 40)
        + "<polygon><x1>40.3</x1><y1>5.2</y1><x2>60.1</x2><y2>8.4</y2><x3>45.6</x3><y3>40.3</y3></polygon>",
        name=f"{ROBOFLOW}.png")}, TRIANGLE, picture=f"bad/dent/{ROBOFLOW}.png"),
    "YOLO, boxes beside images": Export({
        "bad/labels/part_7.txt": f"0 {BOX_SHARE}\n1 {40 / W} {20 / H} {8 / W} {8 / H}\n",
        "bad/data.yaml": "path: .\ntrain: images\nnames:\n  0: dent\n  1: scratch\n"},
        BOX | rectangle(36, 16, 44, 24), 2, "dent scratch", "bad/images/part_7.png"),
    "YOLO, polygons, parallel folders": Export(
        {"bad/labels/train/part_7.txt": f"0 {shares(ELL_CORNERS)}\r\n0 {BOX_SHARE}\r\n"},
        ELL, 1, "0 0", "bad/images/train/part_7.png"),
    "YOLO, oriented boxes beside pictures": Export({
        "bad/dent/part_7.txt": f"1 {shares([[5, 10], [30, 10], [30, 20], [5, 20]])}\n"
        f"0 {shares([[19.7, 24], [32, 11.7], [44.3, 24], [32, 36.3]])}\n",
        "obj.names": "scratch\ndent\n", "train.txt": "data/obj_train_data/part_7.png\n"},
        BOX | (abs(X - 32) + abs(Y - 24) < 12.3), 1, "dent scratch"),
    "VOC, LabelImg": Export({"bad/dent/part_7.xml": voc(bndbox(5, 10, 30, 20))}, BOX, 1),
    "VOC, a folder of Annotations": Export({"Annotations/part_7.xml": voc(bndbox(5.0, 10.0, 30.0, 20.0),
        f"<part><name>head</name>{bndbox(1, 1, 2, 2)}</part>{bndbox(40, 2, 50, 9)}")},
        BOX | rectangle(40, 2, 50, 9), 2, "dent dent"),
    "VOC, CVAT's with rotation and polygons of LabelMe for the web": Export({
        "Annotations/default/part_7.xml": voc(bndbox(17, 19, 47, 29)
        + "<attributes><attribute><name>rotation</name><value>30.0</value></attribute></attributes>",
        "<deleted>0</deleted><polygon><username/>"
        + "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ELL_CORNERS) + "</polygon>")},
        TURNED | ELL, 1, "dent dent"),
    "CVAT, boxes": Export({"annotations.xml": cvat(
        '<box label="dent" occluded="0" xtl="5.00" ytl="10.00" xbr="30.00" ybr="20.00" z_order="0">'
        '<attribute name="depth">2</attribute></box>',
        '<box label="dent" xtl="17" ytl="19" xbr="47" ybr="29" rotation="30.00"/>')},
        BOX | TURNED, 2, "dent dent"),
    "CVAT, polygons and ellipses": Export({"annotations.xml": cvat(
        f'<polygon label="dent" points="{";".join(f"{x:.2f},{y:.2f}" for x, y in ELL_CORNERS)}"/>',
        '<ellipse label="scratch" cx="44" cy="24" rx="11" ry="5" rotation="70"/>',
        name="bad/dent/part_7.png")}, ELL | oval(44, 24, 11, 5, 70), kinds="dent scratch"),
    "CVAT, masks and lines": Export({"annotations.xml": cvat(
        f'<mask label="dent" rle="{", ".join(map(str, runs(TRIANGLE[5:41, 40:61].ravel())))}" '
        'left="40" top="5" width="21" height="36"/>',
        '<polyline label="scratch" points="2.5,3.5;12.5,3.5"/>')},
        TRIANGLE | rectangle(2, 3, 13, 4), kinds="dent scratch"),
    "Label Studio, polygons and rectangles": Export({"project-1-at-2024-05-01.json": json.dumps([task(
        region("polygonlabels", points=percent(ELL_CORNERS), closed=True),
        region("rectanglelabels", x=50, y=100 / 6, width=25, height=25, rotation=40))])},
        ELL | SWUNG, 1, "dent dent"),
    "Label Studio, brush and ellipse": Export({"export.json": json.dumps([
        task(region("brushlabels", format="rle", rle=brush(ELL)), region("choices", choices=["ok"])),
        task(region("brushlabels", format="rle", rle=STREAM), region(
            "ellipselabels", x=50.0, y=50.0, radiusX=12 / W * 100, radiusY=6 / H * 100, rotation=20))])},
        ELL | TRIANGLE | oval(32, 24, 12, 6, 20), kinds="dent dent dent"),
    "Label Studio, JSON_MIN": Export({"min.json": json.dumps([{
        "image": "/data/local-files/?d=bad%2Fdent%2Fpart_7.png", "id": 9, "annotator": 1, "label": [
            {"x": 5 / W * 100, "y": 10 / H * 100, "width": 25 / W * 100, "height": 10 / H * 100,
             "rotation": 0, "rectanglelabels": ["dent"], "original_width": W, "original_height": H},
            {"points": percent(CORNERS), "polygonlabels": ["scratch"]}]}])},
        BOX | TRIANGLE, 1, "dent scratch"),
    "VIA, annotations": Export({"via_region_data.json": via([
        via_region(name="rect", x=5, y=10, width=25, height=10),
        via_region({"type": {"scratch": True}}, name="polygon", all_points_x=ELL_X, all_points_y=ELL_Y)])},
        BOX | ELL, 1, "dent scratch"),
    "VIA, project": Export({"via_project.json": via([
        via_region(name="circle", cx=20, cy=20, r=8.5),
        via_region(name="ellipse", cx=44, cy=24, rx=11, ry=5, theta=np.radians(70)),
        via_region(name="polyline", all_points_x=[2.5, 12.5], all_points_y=[3.5, 3.5])], project=True)},
        oval(20, 20, 8.5, 8.5) | oval(44, 24, 11, 5, 70) | rectangle(2, 3, 13, 4), kinds="dent dent dent"),
    "VIA, version 1, and its COCO": Export({
        "via.json": via({"0": via_region({}, name="rect", x=5, y=10, width=25, height=10)}),
        "via_coco.json": coco("part_7.png", {"segmentation": flat(CORNERS), "bbox": [40, 5, 20, 35]})},
        BOX | TRIANGLE, 1, " dent"),
    "LabelMe, polygon": Export(
        {"bad/dent/part_7.json": labelme({"points": ELL_CORNERS, "shape_type": "polygon"})}, ELL),
    "LabelMe, rectangle and circle": Export({"annotations/part_7.json": labelme(
        {"points": [[30, 20], [5, 10]], "shape_type": "rectangle"},
        {"points": [[44, 24], [44, 32.5]], "shape_type": "circle", "label": "hole"})},
        BOX | oval(44, 24, 8.5, 8.5), 1, "dent hole"),
    "LabelMe, mask": Export({"bad/dent/part_7.json": labelme({
        "points": [[40, 5], [60, 40]], "shape_type": "mask", "mask": png(TRIANGLE[5:41, 40:61])})}, TRIANGLE),
    "Roboflow, CSV": Export({"_annotations.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\n"
        f"{ROBOFLOW}.jpg,{W},{H},dent,5,10,30,20\n{ROBOFLOW}.jpg,{W},{H},hole,36,16,44,24\n"},
        BOX | rectangle(36, 16, 44, 24), 2, "dent hole"),
    "makesense.ai, CSV": Export({"labels_my-project.csv":
        f"dent,5,10,25,10,part_7.png,{W},{H}\nhole,36,16,8,8,part_7.png,{W},{H}\n"},
        BOX | rectangle(36, 16, 44, 24), 2, "dent hole"),
    "Keras RetinaNet, CSV": Export(
        {"annotations.csv": "bad/dent/part_7.png,5,10,30,20,dent\ngood/0.png,,,,,\n"}, BOX, 1),
    "columns with semicolons": Export(
        {"boxes.csv": "Image;Label;X_min;Y_min;X_max;Y_max\npart_7.png;dent;5.0;10.0;30.0;20.0\n"}, BOX, 1),
    "Open Images, CSV": Export({"open_images.csv": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n"
        f"part_7,xclick,dent,1,{5 / W},{30 / W},{10 / H},{20 / H}\n"
        f"part_7,model,dent,.7,0.1,0.2,0.1,0.2\n"}, BOX, 1),
    "VIA, CSV": Export({"via_export_csv.csv":
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
        'part_7.png,9216,"{}",2,0,"{""name"":""rect"",""x"":5,""y"":10,""width"":25,""height"":10}",'
        '"{""type"":""dent""}"\n'
        'part_7.png,9216,"{}",2,1,"{""name"":""circle"",""cx"":44,""cy"":24,""r"":8.5}","{""type"":""hole""}"\n'
        'good_1.png,9216,"{}",0,0,"{}","{}"\n'}, BOX | oval(44, 24, 8.5, 8.5), 1, "dent hole"),
}
# fmt: on


def place(root, export):
    pixels = np.random.default_rng(1).integers(0, 255, (H, W, 3), dtype=np.uint8)
    for name, text in {export.picture: "", **export.files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    Image.fromarray(pixels).save(root / export.picture)


def marked(root):
    """The defective picture."""
    (item,) = [item for item in open_dataset(root).test if item.anomalous]
    return item


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_are_read_to_the_pixel(root, name):
    export = EXPORTS[name]
    place(root, export)
    item = marked(root)
    labels = [mask for mask in item.masks if isinstance(mask, PictureLabels)]
    np.testing.assert_array_equal(union_masks(item.masks, (H, W)), export.mask)
    assert sum(mask.boxes for mask in labels) == export.boxes
    assert sorted(kind for mask in labels for kind in mask.kinds) == sorted(export.kinds.split(" "))


def test_boxes_are_read_as_excel_and_powershell_store_them(root):
    export = EXPORTS["columns with semicolons"]
    place(root, export)
    text = export.files["boxes.csv"].replace("dent", "Dölle")
    for encoding in ("cp1252", "utf-8-sig", "utf-16"):
        (root / "boxes.csv").write_bytes(text.encode(encoding))
        (mask,) = marked(root).masks
        assert (mask.kinds, mask.boxes) == (("Dölle",), 1), encoding


def test_tools_go_together(root):
    """A picture of each tool in one set, each with its own labels."""
    chosen = [name for name in EXPORTS if EXPORTS[name].picture == "bad/dent/part_7.png"]
    for number, name in enumerate(chosen):
        export = EXPORTS[name]
        files = {}
        for path, text in export.files.items():
            if "part_7" not in path:
                path = path.replace(".json", f"{number}.json").replace("annotations.x", f"{number}.x")
            if path not in ("obj.names", "train.txt"):
                files[path.replace("part_7", f"p{number}")] = text.replace("part_7", f"p{number}")
        place(root, export._replace(files=files, picture=f"bad/dent/p{number}.png"))
    items = {item.path.stem: item for item in open_dataset(root).test if item.anomalous}
    for number, name in enumerate(chosen):
        np.testing.assert_array_equal(
            union_masks(items[f"p{number}"].masks, (H, W)), EXPORTS[name].mask, name
        )
    assert not {"label-stray", "no-labels"} & {finding.code for finding in check(root, near=False).findings}


def lines(root):
    return [f.line() for f in check(root, near=False).findings if f.code in ("labels", "no-labels")]


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("CVAT, boxes", ('xtl="5.00"', ""), "as CVAT: something in it has no 'xtl'"),
        ("CVAT, boxes", ('"5.00"', '"nan"'), "as CVAT: a value in it has the wrong form"),
        ("CVAT, boxes", ("</image>", ""), "mismatched tag"),
        ("CVAT, masks and lines", ('width="21"', 'width="19"'), "as CVAT: a mask's run lengths do not make"),
        ("CVAT, boxes", ("utf-8", "utf-x"), "unknown encoding"),
        ("COCO, boxes", ('"bbox"', '"segmentation": "x", "bbox"'), "as COCO: a value in it"),
        ("CVAT, boxes", ("<image", "<track"), "it is of a video, whose frames"),
        ("VOC, LabelImg", ("<xmin>5</xmin>", ""), "as Pascal VOC: a value in it"),
        ("VOC, LabelImg", (f"<width>{W}", "<width>99999999"), "as Pascal VOC: a value in it"),
        ("Label Studio, polygons and rectangles", ('ht": 25', 'ht": null'), "as Label Studio: a value in it"),
        ("VIA, project", ('"r": 8.5', '"s": 8.5'), "as VIA: something in it has no 'r'"),
        ("LabelMe, mask", ('"shape_type"', '"shape_type'), ""),
        ("Roboflow, CSV", (",5,10,", ",5,,"), "as CSV of boxes: a value in it"),
        ("VIA, CSV", ('""r"":8.5', '""s"":8.5'), "as VIA: something in it has no 'r'"),
        ("YOLO, boxes beside images", ("\n1 ", "\n1 3 "), "as YOLO: line 2 is neither"),
        ("Roboflow, YOLO", ("names:", "names: ["), "as YOLO: "),
    ],
)
def test_a_damaged_file_is_one_line_with_the_remedy(root, name, change, reason):
    export = EXPORTS[name]
    files = {path: text.replace(*change) for path, text in export.files.items()}
    if change[1] == "<track":
        files = {path: text.replace("</image", "</track") for path, text in files.items()}
        reason = "as CVAT: it is of a video, whose frames have no names; choose CVAT for images"
    assert files != export.files
    place(root, export._replace(files=files))
    item = marked(root)  # nothing ends because of it
    assert not item.masks
    (message,) = [f.line() for f in check(root, near=False).findings if f.code == "labels-unreadable"]
    assert f"could not be read ({reason}" in message
    assert message.endswith("; export it again")
    assert "\n" not in message
    assert "which could not be read" in item.left_out[0]


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE annotations [<!ENTITY a 'b'>]><annotations/>",
        "<!DOCTYPE annotations [<!ENTITY a 'aaaaaaaaaa'>"
        + "".join(f"<!ENTITY a{k} '{'&a;' * 10}'>" for k in range(9))
        + "]><annotations>&a8;</annotations>",
        "<!DOCTYPE annotation SYSTEM 'file:///etc/passwd'><annotation/>",
    ],
)
def test_hostile_xml_is_refused_at_its_first_line(root, text):
    place(root, EXPORTS["LabelMe, polygon"])
    (root / "a.xml").write_text(text)
    (finding,) = [f for f in check(root, near=False).findings if f.code == "labels-unreadable"]
    assert "document type, <!DOCTYPE>, which no tool writes" in finding.message


def test_run_lengths_that_are_cut_off_or_wrap_around_are_refused_when_they_are_drawn(root):
    place(root, Export({"a.json": json.dumps([task(region("brushlabels", rle=brush(ELL)[:-9]))])}, ELL))
    with pytest.raises(InputError, match="a brush's run lengths are cut off: export them again"):
        union_masks(marked(root).masks, (H, W))
    with pytest.raises(InputError, match="run lengths do not make 8x4 pixels"):
        from_runs(np.array([1 << 62] * 4 + [32]), (4, 8))


def test_polygons_fill_pixels_whose_centre_is_inside():
    for corners in np.random.default_rng(3).uniform(-5, 55, (20, 3, 2)):
        found = PictureLabels(Path("x"), (H, W), (filled(corners),)).read()
        np.testing.assert_array_equal(found, triangle(*corners))


def test_deep_json_is_of_no_form(root):
    place(root, EXPORTS["LabelMe, polygon"])
    (root / "deep.json").write_text("[" * 100_000)
    said = "note: bad/dent/part_7.json: 1 file of LabelMe: 1 mark in 1 picture (dent 1)"
    assert lines(root)[0].startswith(said)


def test_the_check_says_what_was_read_and_what_was_left_out(root):
    place(root, EXPORTS["Label Studio, brush and ellipse"])
    prediction = {"model_version": "m", "score": 0.9, "result": [region("polygonlabels", points=[])]}
    tasks = json.dumps([task(predictions=[prediction])])
    (root / "predicted.json").write_text(tasks)
    (root / "settings.json").write_text('{"size": 3}')
    (root / "bad/dent/part_7.txt").write_text("0 120 33 40 50\n")
    (root / "notes.txt").write_text("looked at on Monday")
    (root / "good/0.txt").write_text("")  # YOLO's of a good picture
    (root / "defects_config.json").write_text("[]")  # of MVTec LOCO
    expected = f"expected: {EXPECTED}"
    assert lines(root) == [
        "note: 2 files of Label Studio: 3 marks in 2 pictures (dent 3); of whole "
        "pictures: dent 1; left out: prediction 1",
        f"note: bad/dent/part_7.txt: is read as no labels; {expected}",
        f"note: settings.json: is read as no labels; {expected}",
    ]


def test_what_a_model_has_found_is_no_ground_truth_and_key_points_are_passed_over(root):
    text = f"0 {BOX_SHARE} 0.93\n0 {shares(ELL_CORNERS)} 0.5\n"
    place(root, Export({"bad/dent/part_7.txt": text}, BOX))
    assert not any(item.masks for item in open_dataset(root).test)
    assert lines(root)[0].endswith("left out: finding of a model 2")
    settings, points = "kpt_shape: [4, 3]\nnames: {0: dent}\n", " ".join(["0.5 0.5 2"] * 4)
    place(root, Export({"bad/dent/part_7.txt": f"0 {BOX_SHARE} {points}\n", "data.yaml": settings}, BOX))
    np.testing.assert_array_equal(union_masks(marked(root).masks, (H, W)), BOX)
