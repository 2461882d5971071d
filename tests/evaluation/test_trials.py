"""Reading the trials of an agreement study: tables, result folders, and what is wrong with them."""

import json

import numpy as np
import pytest
from PIL import Image

import aiag
from flawscope.errors import InputError
from flawscope.evaluation.trials import read_study

TABLE = "results.csv"
HEADER = "path,score,p_value,severity,decision,threshold,regions,error\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8-sig")
    return path


def trials(path, *lines, head="part,appraiser,trial,decision,reference"):
    return write(path, "\n".join([head, *lines, ""]))


def results(folder, answers, model="m.safetensors"):
    """A folder as `predict --out` leaves it; answers: decision and score by the picture's path."""
    rows = [f"{path},{score},.5,1,{decision},1,," for path, (decision, score) in answers.items()]
    write(folder / TABLE, HEADER + "\n".join(rows) + "\n")
    (folder / "results.json").write_text(json.dumps({"model": model, "flawscope": "1.0"}))
    return folder


def test_a_table_of_trials_in_any_order_as_excel_saves_it(tmp_path):
    rows, wanted = [",".join(row) for row in reversed(aiag.rows())], aiag.study()
    german = {"head": "Part; Appraiser; Trial; Decision; Reference"}
    plain = trials(tmp_path / "a.csv", *rows)
    semicolons = trials(tmp_path / "b.csv", *(row.replace(",", ";") for row in rows), **german)
    unicode = tmp_path / "c.csv"  # "Unicode text" of Excel
    unicode.write_text(plain.read_text(encoding="utf-8-sig").replace(",", "\t"), encoding="utf-16")
    for path in (plain, semicolons, unicode):
        found = read_study([path], None).study
        assert found.parts == wanted.parts
        np.testing.assert_array_equal(found.defective, wanted.defective)
        for name in "ABC":
            np.testing.assert_array_equal(found.decisions[name], wanted.decisions[name])


def test_folders_of_results_are_trials_of_their_model(tmp_path):
    for name in ("known/good/p1.png", "known/good/p2.png", "known/scratch/p10.png"):
        write(tmp_path / name, "")
    good, bad = "good", "anomalous"
    first = results(tmp_path / "r1", {"a/p10.png": (bad, 3), "a/p1.png": (good, 1), "a/p2.png": (good, 1)})
    second = results(tmp_path / "r2", {"b/p1.bmp": (good, 2), "b/p2.bmp": (bad, 4), "b/p10.bmp": (good, 3)})
    read = read_study([first, second], tmp_path / "known")
    assert read.study.parts == ("p1", "p2", "p10")
    assert read.study.defective.tolist() == [False, False, True]
    assert read.study.decisions["m.safetensors"].tolist() == [[False, False], [False, True], [True, False]]
    assert read.same_pictures == {"m.safetensors": 1}  # p10 has the very same score twice
    assert [one.path.name for one in read.sources] == [TABLE, TABLE]
    people = trials(tmp_path / "t.csv", *(f"{p},Eva,{k},ok" for p in ("p1", "p2", "p10") for k in "12"))
    both = read_study([first, second, people], tmp_path / "known").study
    assert [*both.decisions] == ["m.safetensors", "Eva"]
    assert both.trials == 2


def test_parts_in_several_views_are_read_from_their_table(tmp_path):
    out = results(tmp_path / "r", {"p1_top.png": ("anomalous", 1)})
    write(
        out / "parts.csv",
        "part,decision,p_value,score,worst,missing\np1,good,.5,1,top,\np2,anomalous,.1,2,top,\n",
    )
    reference = trials(tmp_path / "ref.csv", "p1,good", "p2,defective", head="part,reference")
    assert read_study([out], reference).study.decisions["m.safetensors"].ravel().tolist() == [False, True]
    write(out / "parts.csv", "part,decision,p_value,score,worst,missing\np1,incomplete,.5,1,top,side\n")
    with pytest.raises(InputError, match=r"part p1 was not judged \(a view is missing\)"):
        read_study([out], reference)


GOOD = ("p1,Eva,1,good,good", "p2,Eva,1,bad,bad", "p1,Eva,2,good,good", "p2,Eva,2,bad,bad")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (GOOD[:3], "Eva has not decided on part p2 in trial 2: inspect it"),
        ((*GOOD, "p1,Ben,1,good,good"), "Eva in 2 trials, Ben in 1 trial: every appraiser needs as many"),
        ((*GOOD, "p1,Eva,1,good,good"), "line 6: Eva decides on part p1 twice in trial 1 .first in .* 2"),
        (("p1,Eva,1,good,good", "p2,Eva,1,bad,good"), r"the reference has good parts alone \(2\): a study"),
        (("p1,Eva,1,bad,bad",), "the reference has defective parts alone"),
        ((*GOOD, "p1,Eva,3,good,bad"), "line 6: part p1 is good in one row and defective in another"),
        (("p1,Eva,1,maybe,good",), "line 2: 'maybe' is neither good nor defective: write good or defective"),
        (("p1,,1,good,good",), "line 2: appraiser is empty: fill it in"),
        ((*GOOD[:3], "p2,eva,1,bad,bad"), "line 5: Eva decides on part p2 twice in trial 1"),  # eva is Eva
        ((), "there is no decision"),
    ],
)
def test_an_incomplete_study_is_one_clear_line(tmp_path, lines, said):
    with pytest.raises(InputError, match=said) as error:
        read_study([trials(tmp_path / "t.csv", *lines)], None)
    assert "\n" not in str(error.value)


def test_what_the_reference_lacks_is_named(tmp_path):
    table = trials(tmp_path / "t.csv", "p1,Eva,1,ok", "p9,Eva,1,ok", head="part,appraiser,trial,decision")
    reference = trials(tmp_path / "ref.csv", "p1,good", "p2,bad", head="part,reference")
    for name in ("known/p1.png", "twice/good/p1.png", "twice/bad/p1.png"):
        write(tmp_path / name, "")
    for read, known, said in (
        (table, None, "nothing says which parts are defective: name --reference"),
        (table, reference, "line 3: part p9 is not in the reference"),
        (reference, reference, r"ref\.csv has no column appraiser: it needs part, appraiser"),
        (tmp_path / "gone.csv", reference, r"there is no .*gone.csv"),
        (table, tmp_path / "known", "known: put the pictures of good parts in a folder good"),
        (table, tmp_path / "twice", "have one part's name"),
    ):
        with pytest.raises(InputError, match=said):
            read_study([read], known)


def test_a_picture_that_was_not_judged_is_named(tmp_path):
    out = results(tmp_path / "r", {"p1.png": ("good", 1)})
    write(out / TABLE, f"{HEADER}p1.png,,,,,,,p1.png is damaged\n")
    reference = trials(tmp_path / "ref.csv", "p1,good", "p2,bad", head="part,reference")
    with pytest.raises(InputError, match=r"part p1 was not judged \(p1.png is damaged\)"):
        read_study([out], reference)
    write(out / TABLE, np.random.default_rng(0).bytes(9).hex())
    with pytest.raises(InputError, match="is no table of results"):
        read_study([out], reference)


@pytest.mark.parametrize("table", ["people.csv", "trials.csv", "2026-03 shift A.csv"])
def test_the_table_of_trials_may_lie_beside_the_folder_of_the_reference(tmp_path, table):
    """Its appraisers and their mistakes are no labels of the pictures."""
    for name, folder in (("p1", "good"), ("p2", "defective")):
        picture = tmp_path / "known" / folder / f"{name}.png"
        picture.parent.mkdir(parents=True)
        Image.fromarray(np.full((32, 32), 90 + 60 * (name == "p2"), np.uint8)).save(picture)
    rows = ("p1,Eva,1,good", "p2,Eva,1,good", "p1,Ali,1,bad", "p2,Ali,1,defective")
    trials(tmp_path / table, *rows, head="part,appraiser,trial,decision")
    study = read_study([tmp_path / table], tmp_path / "known").study
    assert study.defective.tolist() == [False, True]
