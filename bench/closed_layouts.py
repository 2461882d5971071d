"""Layouts, names, lists and label files with defects among them, and plain ones, for `closed_world.py` and
the tests: files by their paths, with tiny pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

GOOD, BAD = 12, 4  # pictures of a list: first the good ones
Row = Callable[[int, bool], str]  # of a picture's number, and whether it is good


class Layout(NamedTuple):
    """Files by their paths below a folder. bad: the pictures that show defects."""

    files: dict[str, bytes]
    bad: frozenset[str]

    @property
    def pictures(self) -> list[str]:
        return [name for name, content in self.files.items() if content is PICTURE]


def _encode(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


PICTURE = _encode(np.random.default_rng(3).integers(0, 255, (8, 8, 3), dtype=np.uint8))
_MARKED = np.zeros((8, 8), np.uint8)
EMPTY_MASK = _encode(_MARKED)
_MARKED[2:4, 2:5] = 255
MASK = _encode(_MARKED)


# ------------------------------------------------------------------------------------ ways to write them


def folders(text: str, good: int = 6, bad: int = 3) -> Layout:
    """Folders of pictures; those of defective ones begin with "!". A "|" stands for a blank."""
    files: dict[str, bytes] = {}
    defective: set[str] = set()
    for number, word in enumerate(text.split()):
        is_bad, folder = word.startswith("!"), word.lstrip("!").replace("|", " ")
        for k in range(bad if is_bad else good):
            path = f"{folder}/{100 * number + k:05}.png".removeprefix("./")
            files[path] = PICTURE
            if is_bad:
                defective.add(path)
    return Layout(files, frozenset(defective))


def names(good: str, bad: str = "", *more: str) -> Layout:
    """Pictures of one folder, named by patterns of their number k; those of `bad` are defective. more: of
    further good ones."""
    files = dict.fromkeys([good.format(k=k) for k in range(GOOD)], PICTURE)
    for pattern in more:
        files |= dict.fromkeys([pattern.format(k=k) for k in range(GOOD)], PICTURE)
    defective = [bad.format(k=k) for k in range(GOOD, GOOD + BAD)] if bad else []
    return Layout(files | dict.fromkeys(defective, PICTURE), frozenset(defective))


def numbered(pattern: str = "{k:04}.png", *, bad: int = BAD) -> Layout:
    """Pictures of one folder of whose names none says anything; the last are defective."""
    every = [pattern.format(k=k) for k in range(GOOD + bad)]
    return Layout(dict.fromkeys(every, PICTURE), frozenset(every[GOOD:]))


def beside(files: dict[str, str | bytes], pattern: str = "{k:04}.png", *, bad: int = BAD) -> Layout:
    """Numbered pictures, and files beside them."""
    found = numbered(pattern, bad=bad)
    encoded = {name: text if isinstance(text, bytes) else text.encode() for name, text in files.items()}
    return found._replace(files={**found.files, **encoded})


def rows(row: Row, header: str = "", *, bad: int = BAD) -> str:
    lines = [row(k, k < GOOD) for k in range(GOOD + bad)]
    return "\n".join([*([header] if header else []), *filter(None, lines)]) + "\n"


def table(
    header: str,
    good: str,
    bad: str,
    *,
    name: str = "list.csv",
    file: str = "{k:04}.png",
    of: str = "{k:04}.png",
) -> Layout:
    """A list of numbered pictures: `file` is what it calls them, `good` and `bad` the other cells."""
    sign = ";" if ";" in header else "\t" if "\t" in header else ","

    def row(k: int, is_good: bool) -> str:
        return f"{file.format(k=k)}{sign}{(good if is_good else bad).format(k=k)}"

    return beside({name: rows(row, header)}, of)


def plain_table(header: str, cells: str, *, name: str = "list.csv") -> Layout:
    """A list of good pictures. cells: of picture k, with c its number modulo 3."""

    def row(k: int, _: bool) -> str:
        return f"{k:04}.png,{cells.format(k=k, c='ABC'[k % 3], n=k % 3 + 1, x=1.5 + 0.37 * k)}"

    return beside({name: rows(row, header, bad=0)}, bad=0)


def sidecars(name: str, good: str | None, bad: str | None) -> Layout:
    """A file for each picture; None: there is none."""
    files: dict[str, str | bytes] = {}
    for k in range(GOOD + BAD):
        text = good if k < GOOD else bad
        if text is not None:
            files[name.format(k=k)] = text.replace("NAME", f"{k:04}")
    return beside(files)


def one_json(name: str, make: Callable[[int, bool], Any], wrap: Callable[[list[Any]], Any] = list) -> Layout:
    return beside({name: json.dumps(wrap([make(k, k < GOOD) for k in range(GOOD + BAD)]))})


def json_lines(name: str, make: Callable[[int, bool], Any]) -> Layout:
    return beside({name: rows(lambda k, is_good: json.dumps(make(k, is_good)))})


def workbook(*rows_of: tuple[Any, ...], sheet: str = "Sheet") -> bytes:
    import openpyxl

    book, stream = openpyxl.Workbook(), io.BytesIO()
    book.active.title = sheet
    for row in rows_of:
        book.active.append(row)
    book.save(stream)
    return stream.getvalue()


# --------------------------------------------------------------------------------------- defects among them

_BOX = {"x": 1, "y": 2, "width": 3, "height": 2}
_POINTS = [[1, 1], [4, 1], [4, 4]]


def _folder_cases() -> Iterator[tuple[str, Layout]]:
    for line in DEFECTIVE_FOLDERS.strip().splitlines():
        yield f"folders: {line.strip()}", folders(line)


DEFECTIVE_FOLDERS = """
true_ok !false_ok !true_ng
good/new !good/scratch !bad
1.|Wahl !2.|Wahl
1 !2
0 !1
0 1 !2 !3
OK !OK-
OK !OK--
OK !OK|(?)
severity_0 !severity_1 !severity_2
good !good/scratch
good/cam1 !good/rework !bad
good !good_rework
good !good_but_scratched bad
OK !OK_nachgearbeitet
OK !OK|mit|Kratzer
gut !gut|mit|Kratzer
gut !gut_bedingt
gut !bedingt|gut
iO !iO|nach|Nacharbeit
iO/Schicht|1 !iO/Nacharbeit
i.O. !i.O.?
A !B !C
A-Ware !B-Ware
Klasse|A !Klasse|B
Klasse|1 !Klasse|2 !Klasse|3
Stufe1 !Stufe2
grade_1 !grade_2
note1 !note5
level0 !level1
type1 !type2
Typ|A !Typ|B
Typ|1 !Typ|2
G !B
P !F
pos !neg
T !F
ja !nein
yes !no
grün !rot
green !red
green !yellow !red
weiss !schwarz
accept !rework !scrapped
accept !review
clean !dirty
fine !rusty
sauber !verschmutzt
neu !gebraucht
neu !verschlissen
intakt !Riss
Original !Kratzer
Referenz !Abweichung
golden !test
golden !golden_scratched
master !compare
before !after
vorher !nachher
train/good !train/good_suspect test/good !test/bad
train/good !train/scratch test/good !test/scratch2
train/good/cam1 !train/good/unsicher test/good !test/bad
train/OK !train/OK_grenzwertig test/OK !test/NOK
normal !fast_normal
good !almost_good
good !nearly|good
good !pseudo_good
good !good_FN
good !escapes
ok !ok_escape
ok !overkill
OK/2024-05-01 !OK/2024-05-02_Reklamation
OK/Linie|1 !OK/Rücklauf
good/batch1 !good/batch2_returned
good/2024-03-01 !good/recheck
bon !bon_douteux
bons !à|revoir
bonnes/2024-05-01 !bonnes/rayures
bon !moyen
conforme !conforme|avec|réserve
1er|choix !2e|choix
bueno !bueno|con|raya
buenas/turno|1 !buenas/rayadas
aceptado !aceptado_con_reserva
primera !segunda
1a|scelta !2a|scelta
buono !buono|graffiato
buoni/turno|1 !buoni/graffi
idoneo !con|riserva
dobre !dobre_z_rysa
dobre/zmiana|1 !dobre/rysy
gatunek|1 !gatunek|2
dobre !poprawka
bom !bom_riscado
良品 !不良品
良品 !要確認
OK !リペア
正常 !异常
合格 !不合格
양품 !불량
хорошие !плохие
годен !брак
iyi !kötü
hyvä !huono
god !dårlig
dobrý !vadný
ok !ej_ok
jó !nem_jó
E000 !E101 !E204
F0 !F17
Code_0 !Code_12
BIN1 !BIN2 !BIN7
Bin_1 !Bin_3
Cavity1/1 !Cavity1/0
2024-05-01/0 !2024-05-01/1
cam1/1 !cam1/2
line1 !line1_reject_candidates
Linie1 !Linie1_Sperrlager
Station3/pass !Station3/retest
Freigabe !Sperre
frei !gesperrt
released !blocked
released !quarantine
Lager !Quarantäne
Serie !Anlauf
Serie !Muster_Grenze
Gutmuster !Grenzmuster
Gutmuster !Schlechtmuster
boundary_sample !limit_sample
reference/0 !reference/1
unlabeled !labeled
background !defect_crack
images !images2
set1 !set2
group_a !group_b
cluster0 !cluster1
OK_AOI !OK_VRS
AOI_pass !AOI_call
VRS_OK !VRS_true_call
true !false
TrueOK !FalseOK
falsch_iO !richtig_iO
missed !found
TP !FP !FN TN
Neuer|Ordner !Neuer|Ordner|(2)
New|folder !New|folder|(2)
good !New|folder
good !temp
OK !Sonstige
OK !misc
OK !unknown
OK !Test
. !Kratzer
. !alt_verkratzt
. !niO
. !2
Gut !Gut/alt_verkratzt
bilder/1 !bilder/2
Tag1 !Tag2_Ausfall
Los|12 !Los|13_gesperrt
cam1 !cam1_marked
top !top_damaged_corner
20240501 !20240502_Ausreißer
kos01 !kos02
Anode !Kathode_Riss
CognexOK !CognexReview
Keyence_Pass !Keyence_Hold
ViDi_Good !ViDi_Unknown
neu !alt
Neuteile !Altteile
new !old
train/neu !train/alt
Serie/neu !Serie/alt
neuf !usé
nuevo !gastado
vergine !consumato
nowy !zużyty
vers !bedorven
propre !sale
jasny !ciemny
antes !depois
""".strip("\n")


def _name_cases() -> Iterator[tuple[str, Layout]]:
    for line in DEFECTIVE_NAMES.strip().splitlines():
        good, bad = line.split()
        made = names(*(f"{one.replace('~', ' ')}.png" for one in (good, bad)))
        yield f"names: {line.strip()}", made


DEFECTIVE_NAMES = """
neu_{k:04} alt_{k:04}
{k:04}_new {k:04}_old
{k:04}_ok {k:04}_almost_ok
{k:04}_OK {k:04}_ej_OK
{k:04}_OK {k:04}_quasi_OK
{k:04}_OK {k:04}_false_OK
{k:04}_OK {k:04}_OK_scratch
{k:04}_OK {k:04}_OK-
{k:04}_ok {k:04}_ok_rework
OK_{k:04} OK_Kratzer_{k:04}
ok_{k:04} true_ok_{k:04}
IMG_{k:04} scratch_{k:04}
IMG_{k:04} IMG_{k:04}_crack
IMG_{k:04} IMG_{k:04}_Riss
IMG_{k:04} IMG_{k:04}_marked
part_{k:04} part_{k:04}_dent
fine_{k:04} scratch_{k:04}
{k:04}_P {k:04}_F
P_{k:04} F_{k:04}
G_{k:04} B_{k:04}
A{k:04} B{k:04}
{k:04}_0 {k:04}_1
0_{k:04} 1_{k:04}
{k:04}_pos {k:04}_neg
pass1_{k:04} rework_{k:04}
iO_{k:04} iO_nachgearbeitet_{k:04}
gut~({k}) bedingt~gut~({k})
Teil_{k}_i.O. Teil_{k}_Ausschleusung
bon_{k} bon_rayé_{k}
bueno_{k} bueno_rayado_{k}
dobry_{k} dobry_rysa_{k}
buono_{k} buono_graffio_{k}
良品_{k:04} 不良_{k:04}
{k:04}_clean {k:04}_dirty
SN{k:06}_PASS SN{k:06}_RETEST
20240501_{k:06}_OK 20240501_{k:06}_OVERKILL
board{k:04}_OK board{k:04}_OK_FC
{k:05}_cam1 {k:05}_cam1_E204
K1_{k:04} K2_{k:04}
severity0_{k:04} severity2_{k:04}
{k:04} {k:04}_R
{k:04} {k:04}-review
Teil~({k}) Teil~({k})!
Teil~({k}) Teil~({k})-
""".strip("\n")

DEFECTIVE_LISTS: dict[str, Layout] = {
    "Excel took the zeros": table("file,label", "OK", "NG", file="{k}"),
    "Excel took the zeros, words of another tongue": table("file,label", "jó", "rossz", file="{k}"),
    "Excel wrote powers of ten": table("serial;result", "OK", "NG", file="7,39E+08", of="7390000{k:02}.png"),
    "powers of ten with a point": table("serial,result", "OK", "NG", file="7.39E+08", of="7390000{k:02}.png"),
    "new and old": table("Datei;Zustand", "neu", "alt"),
    "age": table("image,age", "new", "old"),
    "état": table("image,état", "neuf", "usé"),
    "Judge 0 and 1": table("image,Judge", "1", "0"),
    "judge OK and NG": table("image,Judge", "OK", "NG"),
    "result and review": table("image,result,review", "OK,", "OK,Escape"),
    "review of a person": table("image,machine,operator_review", "NG,OK", "NG,NG"),
    "two that disagree": table("image,result,final", "OK,OK", "OK,NG"),
    "P and F": table("file,r", "P", "F"),
    "P and F under result": table("file,result", "P", "F"),
    "判定": table("画像,判定", "○", "×"),
    "判定 OK NG": table("ファイル名,判定", "OK", "NG"),
    "T and F": table("file,check", "T", "F"),
    "Y and N": table("file,approved", "Y", "N"),
    "signs": table("file,Befund", "+", "-"),
    "a prediction": table("file,prediction", "good", "anomalous"),
    "a prediction, 0 and 1": table("file,pred", "0", "1"),
    "prediction beside a truth of another tongue": table("file,prediction,tény", "OK,jó", "OK,rossz"),
    "severity": table("file,severity_class", "0", "2"),
    "grades": table("file,grade", "A", "C"),
    "Wahl": table("Datei;Wahl", "1", "2"),
    "Note": table("Datei;Note", "1", "5"),
    "Klasse": table("Datei;Kl.", "K1", "K3"),
    "Fehlercode": table("Datei;Fehlercode", "0", "4711"),
    "error code, blank": table("file,code", "", "E204"),
    "comments": table("file,comment", "", "scratch near the hole {k}"),
    "Bemerkung": table("Datei;Bemerkung", "", "Kratzer"),
    "disposition": table("file,disposition", "ship", "hold"),
    "bin": table("file,bin", "1", "7"),
    "x marks": table("file,x", "", "x"),
    "area of what was found": table("file,area_mm2", "0", "{k}.5"),
    "n": table("file,n", "0", "3"),
    "colours": table("file,colour", "green", "red"),
    "traffic light": table("Datei;Ampel", "grün", "rot"),
    "who rejected it": table("file,rejected_by", "", "Meier"),
    "rework": table("file,rework", "0", "1"),
    "true call": table("board,aoi,vrs", "NG,false call", "NG,true call"),
    "AOI": table("Image;Barcode;Machine result;Operator result", "SN{k};FAIL;PASS", "SN{k};FAIL;FAIL"),
    "AOI, operator alone": table("Image;Barcode;Op", "SN{k};0", "SN{k};1"),
    "Cognex": table("Image,Tool,Job result", "Blob1,1", "Blob1,-1"),
    "Keyence": table("No.,Total,Tool1", "1,95", "0,12", file="{k:04}.bmp"),
    "Omron": table("image\tjudge\tmeasure", "0\t12.3", "-1\t15.1"),
    "SPC": table("Bild;Messwert;Urteil", "10.{k};1", "14.{k};0"),
    "French": table("fichier;avis", "bon", "à revoir"),
    "French, verdict": table("fichier;verdict", "C", "NC"),
    "Spanish": table("archivo;estado", "apto", "no apto"),
    "Italian": table("file;esito", "OK", "KO rilavorato"),
    "Polish": table("plik;uwagi", "", "rysa"),
    "Polish, wynik": table("plik;wynik", "D", "Z"),
    "Japanese": table("ファイル,結果", "良", "不良"),
    "Chinese": table("文件,标签", "正常", "划痕"),
    "other suffix": table("file,label", "good", "scratch", file="{k:04}.bmp"),
    "other suffix, no picture's": table("file,label", "A", "B", file="{k:04}.raw"),
    "serial numbers in the names": table(
        "serial,state", "1", "0", file="47{k:04}", of="cam1_47{k:04}_2024-05-01.png"
    ),
    "paths of another machine": table("path,class", "c0", "c1", file="D:\\AOI\\img\\{k:04}.jpg"),
    "text, zeros": beside({"labels.txt": rows(lambda k, g: f"{k:04} {'OK' if g else 'NG'}")}),
    "text, signs": beside({"labels.txt": rows(lambda k, g: f"{k:04}.png {'+' if g else '-'}")}),
    "text, numbers of classes": beside({"train.txt": rows(lambda k, g: f"{k:04}.png {0 if g else 1}")}),
    "names alone: NG.txt": beside({"NG.txt": rows(lambda k, g: "" if g else f"{k:04}.png")}),
    "names alone: defects.txt": beside({"defects.txt": rows(lambda k, g: "" if g else f"{k:04}")}),
    "names alone: OK.txt": beside({"OK.txt": rows(lambda k, g: f"{k:04}.png" if g else "")}),
    "names alone: review.csv of names": beside(
        {"check_again.csv": rows(lambda k, g: "" if g else f"{k:04}.png", "file")}
    ),
    "names alone: a sheet NOK": beside(
        {"liste.xlsx": workbook(("Bild",), *[(f"{k:04}.png",) for k in range(GOOD, GOOD + BAD)], sheet="NOK")}
    ),
    "names alone, without zeros": beside({"NG.txt": rows(lambda k, g: "" if g else f"{k}")}),
    "a sheet without zeros": beside(
        {
            "liste.xlsx": workbook(
                ("Nr", "Befund"), *[(k, "iO" if k < GOOD else "niO") for k in range(GOOD + BAD)]
            )
        }
    ),
    "Severstal": table("ImageId_ClassId,EncodedPixels", "", "1 3 9 2", file="{k:04}.jpg_1"),
    "Severstal, of today": beside(
        {
            "train.csv": rows(
                lambda k, g: "" if g else f"{k:04}.png,3,1 3 9 2", "ImageId,ClassId,EncodedPixels"
            )
        }
    ),
    "a list above": Layout(
        {**numbered().files, "../list.csv": rows(lambda k, g: f"{k:04}.png,{int(g)}", "f,v").encode()},
        numbered().bad,
    ),
    "key and value": beside({"labels.ini": rows(lambda k, g: f"{k:04}={'G' if g else 'R'}", "[pictures]")}),
    "YAML": beside({"labels.yaml": rows(lambda k, g: f"{k:04}.png: {'fine' if g else 'rust'}")}),
    "one label a line": beside({"labels.txt": rows(lambda k, g: "OK" if g else "NG")}),
    "a list of older names": beside(
        {"list.csv": rows(lambda k, g: f"IMG_{900 + k}.bmp,{'OK' if g else 'NG'}", "file,label")}
    ),
}


def _xml(tag: str, attribute: str, inside: Row) -> str:
    """XML of an element for each picture."""
    each = [f"<{tag} {attribute}='{k:04}.png'>{inside(k, k < GOOD)}</{tag}>" for k in range(GOOD + BAD)]
    return f"<dataset>{''.join(each)}</dataset>"


_OBJECT = {"classTitle": "scratch", "points": {"exterior": _POINTS, "interior": []}}


def _coco(name: str) -> Layout:
    """COCO beside numbered pictures, which calls them by another pattern of their number k."""
    images = [{"id": k, "file_name": name.format(k=k), "width": 8, "height": 8} for k in range(GOOD + BAD)]
    marks = [
        {"id": k, "image_id": k, "category_id": 1, "bbox": [1, 1, 3, 3], "area": 9}
        for k in range(GOOD, GOOD + BAD)
    ]
    document = {"images": images, "annotations": marks, "categories": [{"id": 1, "name": "chip"}]}
    return beside({"coco.json": json.dumps(document)})


DEFECTIVE_TOOLS: dict[str, Layout] = {
    "0004.txt with NG": sidecars("{k:04}.txt", "OK", "NG"),
    "0004.txt with P": sidecars("{k:04}.txt", "P", "F"),
    "0004.txt with 0": sidecars("{k:04}.txt", "0", "1"),
    "0004.txt of the defective ones": sidecars("{k:04}.txt", None, "chip at the rim, 2 mm"),
    "0004.txt of results": sidecars("{k:04}.txt", "Time: 12\nResult: 0\n", "Time: 12\nResult: 1\n"),
    "0004.log": sidecars("{k:04}.log", "judge=PASS", "judge=FAIL"),
    "0004.ini": sidecars("{k:04}.ini", "[r]\njudge=1\n", "[r]\njudge=2\n"),
    "0004.yaml": sidecars("{k:04}.yaml", "label: fine\n", "label: rust\n"),
    "0004.dat": sidecars("{k:04}.dat", "\x00\x01\x02", "\x00\x01\x03"),
    "0004.mat of the defective ones": sidecars("{k:04}.mat", None, "\x00\x01\x03"),
    "0004.xml of a machine": sidecars(
        "{k:04}.xml", "<Board><Result>0</Result></Board>", "<Board><Result>2</Result></Board>"
    ),
    "0004.xml, attributes": sidecars("{k:04}.xml", '<r><img state="a"/></r>', '<r><img state="b"/></r>'),
    "Supervisely": sidecars(
        "ann/{k:04}.png.json",
        json.dumps({"objects": [], "size": {}}),
        json.dumps({"objects": [_OBJECT], "size": {}}),
    ),
    "Supervisely, above": sidecars(
        "../ann/{k:04}.png.json", json.dumps({"objects": []}), json.dumps({"objects": [_OBJECT]})
    ),
    "V7": sidecars(
        "{k:04}.json",
        json.dumps({"item": {"name": "NAME.png"}, "annotations": []}),
        json.dumps({"item": {"name": "NAME.png"}, "annotations": [{"name": "chip", "bounding_box": _BOX}]}),
    ),
    "SuperAnnotate": sidecars(
        "{k:04}.png___objects.json",
        json.dumps({"metadata": {"name": "NAME.png"}, "instances": []}),
        json.dumps({"metadata": {"name": "NAME.png"}, "instances": [{"className": "chip", "points": _BOX}]}),
    ),
    "LandingLens": sidecars(
        "{k:04}.json", json.dumps({"defects": []}), json.dumps({"defects": [{"id": 1, "box": _BOX}]})
    ),
    "labels of the defective ones alone": sidecars("{k:04}.json", None, json.dumps({"boxes": [_BOX]})),
    "Labelbox": json_lines(
        "export.ndjson",
        lambda k, g: {
            "data_row": {"id": f"c{k}", "external_id": f"{k:04}.png"},
            "projects": {"p": {"labels": [{"annotations": {"objects": [] if g else [{"name": "chip"}]}}]}},
        },
    ),
    "Labelbox, one file": one_json(
        "export.json",
        lambda k, g: {"External ID": f"{k:04}.png", "Label": {} if g else {"objects": [{"title": "chip"}]}},
    ),
    "Datumaro": one_json(
        "default.json",
        lambda k, g: {
            "id": f"{k:04}",
            "annotations": [] if g else [{"type": "bbox", "label_id": 0, "bbox": [1, 1, 3, 3]}],
        },
        lambda items: {"info": {}, "categories": {"label": {"labels": [{"name": "chip"}]}}, "items": items},
    ),
    "CreateML": one_json(
        "labels.json",
        lambda k, g: {
            "image": f"{k:04}.png",
            "annotations": [] if g else [{"label": "chip", "coordinates": _BOX}],
        },
    ),
    "CreateML, classes": one_json(
        "labels.json", lambda k, g: {"image": f"{k:04}.png", "annotation": "a" if g else "b"}
    ),
    "Hasty": one_json(
        "hasty.json",
        lambda k, g: {
            "image_name": f"{k:04}.png",
            "labels": [] if g else [{"class_name": "chip", "bbox": [1, 1, 3, 3]}],
        },
        lambda images: {"project_name": "p", "images": images},
    ),
    "Kili": one_json(
        "kili.json",
        lambda k, g: {
            "externalId": f"{k:04}",
            "labels": [
                {"jsonResponse": {} if g else {"JOB": {"annotations": [{"categories": [{"name": "CHIP"}]}]}}}
            ],
        },
    ),
    "Encord": one_json(
        "encord.json",
        lambda k, g: {
            "data_title": f"{k:04}.png",
            "data_units": {f"u{k}": {"labels": {"objects": [] if g else [{"name": "chip"}]}}},
        },
    ),
    "VoTT": beside(
        {
            "vott.json": json.dumps(
                {
                    "assets": {
                        f"h{k}": {
                            "asset": {"name": f"{k:04}.png"},
                            "regions": [] if k < GOOD else [{"tags": ["chip"], "boundingBox": _BOX}],
                        }
                        for k in range(GOOD + BAD)
                    }
                }
            )
        }
    ),
    "SageMaker": json_lines(
        "output.manifest",
        lambda k, g: {
            "source-ref": f"s3://b/{k:04}.png",
            "q": int(not g),
            "q-metadata": {"class-name": "a" if g else "b"},
        },
    ),
    "SageMaker, boxes": json_lines(
        "output.manifest",
        lambda k, g: {
            "source-ref": f"s3://b/{k:04}.png",
            "q": {"annotations": [] if g else [{"class_id": 0, **_BOX}]},
        },
    ),
    "Rekognition": json_lines(
        "m.jsonl", lambda k, g: {"source-ref": f"s3://b/{k:04}.png", "anomaly-label": 0 if g else 1}
    ),
    "Vertex": json_lines(
        "v.jsonl",
        lambda k, g: {
            "imageGcsUri": f"gs://b/{k:04}.png",
            "classificationAnnotation": {"displayName": "u" if g else "v"},
        },
    ),
    "FiftyOne": one_json(
        "samples.json",
        lambda k, g: {
            "filepath": f"data/{k:04}.png",
            "ground_truth": {"_cls": "Classification", "label": "a" if g else "b"},
        },
        lambda samples: {"samples": samples},
    ),
    "FiftyOne, folders": beside(
        {
            "labels.json": json.dumps(
                {"classes": ["a", "b"], "labels": {f"{k:04}": int(k >= GOOD) for k in range(GOOD + BAD)}}
            )
        }
    ),
    "COCO without zeros": _coco("{k}.png"),
    "COCO by other names": _coco("frame_{k:04}.png"),
    "Halcon dictionary": beside(
        {
            "labels.json": json.dumps(
                {
                    "class_names": ["a", "b"],
                    "samples": [
                        {"image_file_name": f"{k:04}.png", "image_label_id": int(k >= GOOD)}
                        for k in range(GOOD + BAD)
                    ],
                }
            )
        }
    ),
    "MVTec DLT, marks": one_json(
        "dlt.json",
        lambda k, g: {"image_file_name": f"{k:04}.png", "bbox_row1": [] if g else [1]},
        lambda samples: {"samples": samples},
    ),
    "XML of all": beside({"all.xml": _xml("img", "name", lambda k, g: f"<c>{int(not g)}</c>")}),
    "dlib": beside({"dlib.xml": _xml("image", "file", lambda k, g: "" if g else "<box top='1' left='1'/>")}),
    "masks beside": Layout(
        {**numbered().files, **{f"masks/{k:04}.png": MASK for k in range(GOOD, GOOD + BAD)}}, numbered().bad
    ),
    "images and masks": Layout(
        {
            **{f"images/{one}": PICTURE for one in numbered().files},
            **{f"masks/{k:04}.png": MASK for k in range(GOOD, GOOD + BAD)},
        },
        frozenset(f"images/{one}" for one in numbered().bad),
    ),
    "images and masks, empty ones": Layout(
        {
            **{f"images/{one}": PICTURE for one in numbered().files},
            **{f"masks/{k:04}.png": EMPTY_MASK if k < GOOD else MASK for k in range(GOOD + BAD)},
        },
        frozenset(f"images/{one}" for one in numbered().bad),
    ),
    "a mask by its name": Layout(
        {**numbered().files, **{f"{k:04}_mask.png": MASK for k in range(GOOD, GOOD + BAD)}}, numbered().bad
    ),
}


def defective() -> Iterator[tuple[str, Layout]]:
    """Yields layouts with defects among the pictures; of none of these may one be learnt unasked."""
    yield from _folder_cases()
    yield from _name_cases()
    yield from ((f"list: {name}", one) for name, one in DEFECTIVE_LISTS.items())
    yield from ((f"labels: {name}", one) for name, one in DEFECTIVE_TOOLS.items())


# ---------------------------------------------------------------------------------- nobody knows what is what

MIXED_UP = """
good bad/FP !bad/scratch
good bad/false_alarms !bad/scratch
good bad/overkill !bad
gut Ausschuss/Pseudofehler !Ausschuss/Kratzer
train/good test/good test/false_ng !test/dent
train/good test/good test/FP !test/TP
train/OK test/OK !test/missed_NG
iO niO/falsch_niO !niO/Riss
bon rebut/faux_rebut !rebut/rayure
good !missed bad
""".strip("\n")


def mixed_up() -> Iterator[tuple[str, Layout]]:
    """Yields layouts in which good pictures lie under words for defects, or the other way round: a question,
    since every figure would be wrong."""
    for line in MIXED_UP.splitlines():
        yield f"folders: {line}", folders(line)


# --------------------------------------------------------------------------------------------- plain ones

PLAIN_FOLDERS = """
gut/neu gut/alt !schlecht
2026-11-30|neu 2026-12-01|alt
bonnes/Ligne|2 !rebuts/Ligne|2
buenas/turno|noche !rechazadas/turno|noche
buoni/lotto_12 !scarti/lotto_12
dobre/zmiana|1 !wady/zmiana|1
aprovados/lote|7 !refugos/lote|7
goed/machine|1 !afkeur/machine|1
iO/Kamera|links iO/Kamera|rechts !niO/Kamera|links
conformes/équipe|matin !non|conformes/équipe|matin
good
good !bad
good !bad/scratch !bad/dent
good !defect
good !anomaly
good !defects/crack
good_parts !bad_parts
Good !Bad
GOOD !REJECT
OK !NOK
OK !NG
ok !ko
OK !NG/scratch !NG/stain
OK/S0001 OK/S0002 !NG/AK/S0003
PASS !FAIL
pass !fail
accepted !rejected
undamaged !damaged
no_defect !defect
defect-free !defective
normal !abnormal
normal !anomalous
MT_Free !MT_Defect
screw_ok !screw_nok
Schraube_M6_gut !Schraube_M6_schlecht
iO !niO
i.O. !n.i.O.
IO !NIO
gut !schlecht
Gut !Schlecht
Gutteile !Ausschuss
Gutteile|2024-03 !Ausschuss|2024-03
gute|Teile !schlechte|Teile
fehlerfrei !fehlerhaft
ohne|Fehler !mit|Fehler
in|Ordnung !nicht|in|Ordnung
Linie|3|iO !Linie|3|niO
gut/Los|12 gut/Los|13 !schlecht
gut/Schicht|1 gut/Schicht|2
OK/Schicht|1 OK/Schicht|2 !NOK
OK/Frühschicht OK/Spätschicht !NOK/Riss
bon !mauvais
bonnes !mauvaises
conforme !non_conforme
sans_défaut !défaut
bon/équipe|1 bon/équipe|2 !rebut
bueno !malo
sin_defecto !defecto
aceptado !rechazado
buenas/turno|1 buenas/turno|2 !malas
buono !difettoso
senza_difetti !difetti
buoni/turno|1 buoni/turno|2 !scarti
dobre !zle
bez_wad !wada
dobre/zmiana|1 dobre/zmiana|2 !braki
bom !ruim
goed !slecht
train/good
train/good test/good !test/scratch
train/good test/good !test/scratch !test/dent
train/good test/good !test/combined !test/cut_lead
train/good validation/good test/good !test/logical_anomalies !test/structural_anomalies
train/ok test/ok !test/ko
train/good validation/good test_public/good !test_public/bad
train/good/cam1 train/good/cam2 test/good !test/bad
train/good/2024-03-01 train/good/2024-03-02
Data/Images/Normal !Data/Images/Anomaly
train/good !train/defect valid/good !valid/defect test/good !test/defect
train/good !train/scratch test/good !test/scratch
train/iO !train/niO test/iO !test/niO
1_train/iO 2_test/iO !2_test/niO
good/train good/test !bad/train !bad/test
good/cam1 good/cam2
good/cam1 good/cam2 !bad/cam1 !bad/cam2
good/2024-03-01 good/2024-03-02
good/2024/03/01 good/2024/03/02
good/1 good/2 good/3 !bad
good/left good/right
good/lot_12 good/lot_13 !bad
good/Station|1 good/Station|2
good/SN004711 good/SN004712
2024-05-01 2024-05-02
2024-05-01/iO 2024-05-02/iO
20240501 20240502 20240503
2024/05/01 2024/05/02
2024/5/1 2024/5/2
2024-05 2024-06
01.05.2024 02.05.2024
KW18 KW19
2026-W12 2026-W13
2026W12 2026W13
Montag Dienstag
lundi mardi mercredi
lunes miércoles
lunedì martedì
poniedziałek środa
maandag woensdag
février août
styczeń luty
good/lundi good/mardi
Mon Tue Wed
Januar Februar
cam1 cam2
cam_A cam_B
Kamera|1 Kamera|2
caméra|1 caméra|2
left right
links rechts
top bottom
oben unten
Schicht|1 Schicht|2 Schicht|3
Frühschicht Spätschicht
shift1 shift2
lot_0012 lot_0013
Los|4711 Los|4712
batch_3 batch_4
Charge|12 Charge|13
Linie|1 Linie|2
line1/cam1 line1/cam2 line2/cam1
Station|1 Station|2
station3/2024-05-01 station3/2024-05-02
nest1 nest2 nest3
100CANON 101CANON
DCIM/100CANON DCIM/101CANON
part_0001 part_0002
SN004711 SN004712
004711 004712 004713
images
pictures/2024-05-01 pictures/2024-05-02
bilder
. new
dark bright
view1 view2
""".strip("\n")
PLAIN_NAMES = """
{k:04}
IMG_{k:04}
DSC{k:05}
Verschluss_{k:04}
Bild~({k})
2024-05-01_{k:04}
20240501_{k:06}_cam1
good_{k:03}
{k:04}_ok
OK{k:04}
iO-{k}
SN{k:06}
Teil-{k}_oben
NG200_{k:04}
AX-NG300_{k}
screw_{k}_temp
frame.{k:06}
部品_{k}
Kolben_4711_{k}
Los12_Nest3_{k:03}
part~{k}
2024-05-{k:02}~08.15
new~IMG_{k:04}
new~DSC{k:05}
new~Teil-{k}_oben
""".strip("\n")
PLAIN_PAIRS = """
OK_{k:04} NG_{k:04}
{k:04}_OK {k:04}_NOK
iO_{k:04} niO_{k:04}
{k:04}_gut {k:04}_schlecht
bon_{k} mauvais_{k}
bueno_{k} malo_{k}
buono_{k} difettoso_{k}
dobry_{k} zly_{k}
screw_{k}_pass screw_{k}_fail
""".strip("\n")
_NOTE = "Pictures of line 3, taken with the ring light. Ask Meier for more.\n"
PLAIN_LISTS: dict[str, Layout] = {
    "OK and NG": table("file,label", "OK", "NG"),
    "good and bad": table("filename,class", "good", "bad"),
    "German": table("Datei;Befund", "iO", "niO"),
    "French": table("fichier;résultat", "conforme", "non conforme"),
    "Spanish": table("archivo;resultado", "bueno", "malo"),
    "Italian": table("file;esito", "buono", "scarto"),
    "Polish": table("plik;wynik", "dobry", "wada"),
    "kinds of defects beside": table("file,label,defect_type", "ok,none", "nok,dent"),
    "defective, 0 and 1": table("file,defective", "0", "1"),
    "iO, ja and nein": table("Datei;iO", "ja", "nein"),
    "prediction beside the truth": table("file,label,prediction", "OK,NG", "NG,OK"),
    "split beside the truth": table("file,label,split", "OK,train", "NG,test"),
    "train.txt and test.txt": beside(
        {
            "train.txt": rows(lambda k, _: f"{k:04}.png" if k % 3 else "", bad=0),
            "test.txt": rows(lambda k, _: "" if k % 3 else f"{k:04}.png", bad=0),
        },
        bad=0,
    ),
    "operator, camera": plain_table("file,operator,camera", "{c},cam{n}"),
    "exposure": plain_table("file,exposure_us,gain", "12{n}0,{n}"),
    "time": plain_table("file,timestamp", "2024-05-01 10:{k:02}:00"),
    "article and material": plain_table("file,Artikel,material", "{c}4711,{c}"),
    "two phones": Layout(
        dict.fromkeys([f"good/{name}_{k:04}.jpg" for name in ("IMG", "PXL") for k in range(GOOD)], PICTURE),
        frozenset(),
    ),
    "shift and lot": plain_table("file,shift,lot", "{n},4711"),
    "serial numbers": plain_table("file,serial", "SN{k:05}"),
    "measured": plain_table("file,length_mm", "{x:.2f}"),
    "the same for all": plain_table("file,product", "cap"),
    "all OK": plain_table("file,result", "OK"),
    "of other pictures": beside({"l.csv": "other.png,NG\nelse.png,OK\n"}, bad=0),
    "names alone, of all": beside({"files.txt": rows(lambda k, _: f"{k:04}.png", bad=0)}, bad=0),
    "notes": beside(
        {"notes.txt": _NOTE, "README.md": _NOTE, "settings.ini": "[camera]\nexposure=12\n"}, bad=0
    ),
    "settings in JSON": beside({"camera.json": json.dumps({"exposure": 12, "roi": [0, 0, 8, 8]})}, bad=0),
    "masks of nothing": Layout(
        {**numbered(bad=0).files, **{f"masks/{k:04}.png": EMPTY_MASK for k in range(GOOD)}}, frozenset()
    ),
    "a file of the camera each": beside(
        {f"{k:04}.txt": f"exposure=12{k % 3}\ngain=1\n" for k in range(GOOD)}, bad=0
    ),
    "JSON of the camera each": beside(
        {f"{k:04}.json": json.dumps({"exposure": 120 + k % 3, "time": k}) for k in range(GOOD)}, bad=0
    ),
    "XMP": beside({f"{k:04}.xmp": "<x/>" for k in range(GOOD)}, bad=0),
    "raw files": beside({f"{k:04}.dng": b"\0\1" for k in range(GOOD)}, bad=0),
}


def plain() -> Iterator[tuple[str, Layout]]:
    """Yields layouts in which each picture is known to be good or defective: nothing is to be asked."""
    for line in PLAIN_FOLDERS.splitlines():
        yield f"folders: {line}", folders(line)
    for line in PLAIN_NAMES.splitlines():
        yield f"names: {line}", names(f"{line.replace('~', ' ')}.png")
    for line in PLAIN_PAIRS.splitlines():
        yield f"names: {line}", names(*(f"{one}.png" for one in line.split()))
    yield from ((f"list: {name}", one) for name, one in PLAIN_LISTS.items())
