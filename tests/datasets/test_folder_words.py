"""Which folders hold good pictures, by their names in seven languages: defects are never learnt as good
unless somebody says so."""

import re
from pathlib import Path

import pytest

from flawscope.datasets import open_dataset
from flawscope.errors import InputError
from flawscope.pictures.folder_words import Said, read_side_by_side, says_good, says_only_bad

QUESTION = "which folders hold good pictures"
GOOD_NAMES = (
    "good|Good_parts|GOOD 2|OK|ok_2024|01-ok|iO|i.O.|2024-05-01_iO|IO-Teile|ioTeile|in Ordnung|Gut|Gutteile|"
    "gute_Teile|fehlerfrei|ohne Fehler|unbeschädigt|unbeschaedigt|bon|Pièces bonnes|sans défaut|conforme|"
    "bueno|piezas buenas|sin_defectos|buoni|senza difetti|bom|sem defeito|dobre|bez wad|Pass|accepted|"
    "goed|goedgekeurd|geen fout|"
    "undamaged|defect-free|free of defects|NODefect_images|NoDefects|non-defective|not bad|normal|"
    "kein Fehler|Teile_gut|20240501OK|no_3_good|schadenfrei|intact"
)
BAD_NAMES = (
    "bad|niO|n.i.O.|NIO|2024-05-01_niO|NG|N.G.|NOK|n_ok|KO|not ok|NotOK|nicht gut|nicht in Ordnung|"
    "nicht i.O.|schlecht|Schlechtteile|Ausschuss|Fehlerteile|defekt|défaut|Défauts|mauvais|"
    "pas bon|non conforme|Non-conformes|rebuts|malo|defectuosas|rechazados|dañado|difetti|scarti|"
    "niet ok|niet goed|afgekeurd|ikke ok|inte ok|no conforme|ruim|refugo|não conforme|wadliwe|braki|"
    "FAIL|failed|Rejects|scrap|damaged|Defect_images|No. 3 defect|no_3_defect|"
    "def_front|beschädigt|unacceptable|not undamaged|nicht fehlerfrei|not free of defects|not_defect_free"
)
UNKNOWN_NAMES = (
    "widget|MT_Free|scratch|Kratzer|MT_Blowhole|good_and_bad|ok_nok|almost good|fast gut|gut mit "
    "Kratzern|no label|"
    "positive|class1|Tokyo|Nokia|books|mango|free of rust|no cracks but good|union|kong|goodyear|fixing"
)
# Kinds of defects of published data sets: none is good
KINDS = (
    "broken_large contamination bent_wire cable_swap cut_inner_insulation missing_cable poke crack color "
    "faulty_imprint pill_type glue_strip hole print gray_stroke oil thread metal_contamination misplaced "
    "liquid manipulated_front scratch_head thread_side defective damaged_case fabric_border "
    "logical_anomalies bend_and_parts_mismatch major_rust total_rust flattening squeezed_teeth "
    "good_front_bad_back"
)


@pytest.mark.parametrize(
    ("names", "said"), [(GOOD_NAMES, True), (BAD_NAMES, False), (UNKNOWN_NAMES, None)], ids=str
)
def test_what_a_name_says(names, said):
    assert {name: says_good(name) for name in names.split("|")} == dict.fromkeys(names.split("|"), said)


def test_no_kind_of_defect_is_good():
    assert [kind for kind in KINDS.split() if says_good(kind)] == []
    assert not says_only_bad("damaged_case")
    assert says_only_bad("Defekte Teile 2024")


@pytest.mark.parametrize(
    ("names", "known"),
    [
        *[(names, True) for names in ("2024-05-01|2024-05-02", "2024|2023", "cam1|cam_2", "batch 3|batch 4")],
        *[(names, True) for names in ("Frühschicht|Spätschicht", "left|right", "100CANON|101CANON", "Mo|Di")],
        *[(names, True) for names in ("Teil 01|Teil 02", "2024-05-01|new", "cam_A|cam_B", "Schicht 1|cam2")],
        *[(names, False) for names in ("0|1", "label0|label1", "type1|type2", "A|B", "positive|negative")],
        *[(names, False) for names in ("2024-05-01|Kratzer", "cam1|dent", "class 1|class 2", "x|y")],
        *[(names, False) for names in ("Neuer Ordner|Neuer Ordner (2)", "New folder|cam1", "1|2|3")],
        *[
            (names, True)
            for names in ("Neuer Ordner Cam 1|Neuer Ordner Cam 2", "Schraube cam 1|Schraube cam 2")
        ],
        ("New folder", True),  # alone, as the folder of a kind of defects is
        *[(names, False) for names in ("kos01|kos02", "New folder cam 1|cam 2")],
        *[(names, False) for names in ("G1|B1", "P_2024|F_2024", "2024-05-01_G|2024-05-01_N", "z1|n1")],
    ],
)
def test_folders_by_which_good_pictures_are_sorted(names, known):
    assert ({*read_side_by_side(names.split("|")).values()} == {Said.SORTED}) is known


# The number learnt from of three pictures each, or ? for a question, or that the categories are to be chosen:
# folders of pictures, those of defects behind a !
EXPECTED = {
    3: "iO !niO|i.O. !n.i.O.|2024-05-01_iO !2024-05-01_niO|IO !NIO|gut !schlecht|Gutteile !Schlechtteile|"
    "Gut !Ausschuss|iO !Ausschuss !defekt|in_Ordnung !nicht_in_Ordnung|fehlerfrei !fehlerhaft|"
    "ohne_Fehler !Fehler|unbeschädigt !beschädigt|ok !ko|OK !NOK|OK !NG|Pass !Fail|"
    "passed_parts !failed_parts|accepted !rejected|undamaged !damaged|good !scrap|ok !not_ok|"
    "NODefect_images !Defect_images|defect_free !defective|ok_front !def_front|screw_ok !screw_nok|"
    "normal !abnormal|conforme !non_conforme|bon !mauvais|pièces_bonnes !rebuts|sans_défaut !défauts|"
    "bueno !malo|buenas !defectuosas|sin_defectos !defectos|aceptados !rechazados|buono !difettoso|"
    "buoni !scarti|senza_difetti !difetti|bom !ruim|sem_defeito !defeitos|dobre !wadliwe|zgodne !niezgodne|"
    "bez_wad !braki|train/iO !test/niO test/iO|good !bad extra|"
    "train/iO !train/niO|train/good !train/defect !valid/defect|"
    ".|widgets",  # as people sort good pictures: no question
    6: "iO good !niO|2024-05-01 2024-05-02|cam1 cam2|batch_3 batch_4|Frühschicht Spätschicht|left right|"
    "2024-05-01/Gutteile 2024-05-02/Gutteile|good/2024-05-01 good/2024-05-02|good/left good/right|"
    ". new",
    "?": "1 2 3|kos01 kos02|good/red !good/blue|good good/new !good/scratch|ok !ej_ok|screw_good "
    "!screw_nem_good|ok/cam1 ok/cam2 !ei_ok|iO !Kratzer|good !Kratzer !Delle|"
    "MT_Free/Imgs !MT_Blowhole/Imgs !MT_Crack/Imgs|gut !Delle !damaged_case !scratch|Serie7 !Ausschuss|"
    "2024-05-01 !niO|positive !negative|0 !1|G !B|A_Ware !B_Ware|clean !dirty|fine !rusty|. !Kratzer|. !niO|"
    "!niO|widgets/fresh !widgets/worn|train/iO !train/Kratzer",
    "good/rejected (3, unclear by its name)": "good good/2024 !good/rejected",
    "of good pictures: --good iO": "2024-05-01/iO !2024-05-01/niO 2024-05-02/iO !2024-05-02/niO",
}
LAYOUTS = {folders: found for found, every in EXPECTED.items() for folders in every.split("|")}


def build(save, root, folders):
    for folder in folders.split():
        for k in range(3):
            save(root / folder.lstrip("!") / f"{'dent' if folder.startswith('!') else 'fine'}{k}.png")


@pytest.mark.parametrize("folders", LAYOUTS)
def test_defects_are_never_learnt_as_good_in_silence(tmp_path, save, folders):
    build(save, tmp_path / "part", folders)
    expected = LAYOUTS[folders]
    if isinstance(expected, str):
        with pytest.raises(InputError, match=re.escape(QUESTION if expected == "?" else expected)) as caught:
            open_dataset(tmp_path / "part", test_share=0)
        assert "\n" not in str(caught.value)
        return
    dataset = open_dataset(tmp_path / "part", test_share=0)
    learnt = [item.path.name for item in dataset.train]
    assert not any(name.startswith("dent") for name in learnt)
    assert len(learnt) == expected
    assert {item.path.name[:4] for item in dataset.test if item.anomalous} <= {"dent"}


def test_the_question_counts_and_its_answers_are_taken(tmp_path, save):
    root = tmp_path / "tiles"
    build(save, root, "MT_Free/Imgs !MT_Blowhole/Imgs !MT_Crack/Imgs")
    save(root / "MT_Free/Imgs/more.png")
    with pytest.raises(InputError) as caught:
        open_dataset(root)
    assert "MT_Blowhole (3), MT_Crack (3), MT_Free (4, good by its name): name them with --good" in str(
        caught.value
    )
    named = open_dataset(root, good="MT_Free", test_share=0)
    assert (len(named.train), named.kinds) == (4, ("MT_Blowhole", "MT_Crack"))
    assert [len(open_dataset(root, good=good).train) for good in ("all", "mt_free,MT_Crack/Imgs")] == [10, 6]
    assert open_dataset(root, good="all").test == ()
    for good, reason in (("MT_Fre", "did you mean MT_Free"), (" ,", "--good is empty")):
        with pytest.raises(InputError, match=reason):
            open_dataset(root, good=good)


def test_named_folders_are_split_like_others(tmp_path, save):
    build(save, tmp_path / "a", "good/1 good/2 good/3 good/4 !bad")
    build(save, tmp_path / "b", "serie/1 serie/2 serie/3 serie/4 !Kratzer/tief")
    one, other = open_dataset(tmp_path / "a"), open_dataset(tmp_path / "b", good="serie")
    held = [{i.path.name + i.path.parent.name for i in d.test if not i.anomalous} for d in (one, other)]
    assert held[0] == held[1]
    assert len(held[0]) == 2
    assert other.kinds == ("serie", "Kratzer")


def test_days_of_one_product_are_opened_together(tmp_path, save):
    build(save, tmp_path, "2024-05-01/iO !2024-05-01/niO/dent 2024-05-02/iO !2024-05-02/niO .")
    dataset = open_dataset(tmp_path, good="iO,.", test_share=0)
    assert (len(dataset.train), dataset.kinds) == (9, ("dent", "niO"))
    assert len(open_dataset(tmp_path, "2024-05-01", test_share=0).train) == 3


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("1_train", "test_set"), ("Trainingsdaten", "prueba")]
)
def test_names_keep_the_split_of_a_layout(tmp_path, save, train, test):
    build(save, tmp_path, f"{train}/good {test}/good !{test}/dent")
    found = open_dataset(tmp_path, good="all")
    assert [len(one) for one in found.splits.values()] == [3, 0, 6]
    assert not any(item.anomalous for item in found.test)


def test_other_words_of_good_are_good_in_the_test_set_too(tmp_path, save):
    build(save, tmp_path, "train/iO test/undamaged !test/damaged !test/missing_label")
    dataset = open_dataset(tmp_path)
    assert {item.kind: item.anomalous for item in dataset.test} == {
        "undamaged": False,
        "damaged": True,
        "missing_label": True,
    }


def test_mask_images_beside_defects_are_masks(tmp_path, save, mask):
    for k in range(6):
        save(tmp_path / f"NODefect_images/23068{k}/000{k}.png")
    save(tmp_path / "Defect_images/0001_002.png")
    save(tmp_path / "Mask_images/0001_002_mask.png", mask)
    dataset = open_dataset(tmp_path, test_share=0)
    assert len(dataset.train) == 6
    ((item,), names) = dataset.test, [Path("Mask_images/0001_002_mask.png")]
    assert [Path(dataset.relative(one)) for one in item.masks] == names
