"""Which cells there are, what they are called, and which calls are refused before anything runs."""

import os
import shutil

import pytest
from PIL import Image

from flawscope.cli import benchmark
from flawscope.datasets.layouts import MVTEC, OBJECTS, TEXTURES
from flawscope.errors import InputError
from flawscope.evaluation.benchmark.grid import SHARED_OPTIONS, plan_grid
from flawscope.evaluation.benchmark.tables import methods_and_seeds


def names(grid):
    return [cell.name for cell in grid.cells]


def test_rows_stand_in_the_usual_order_and_others_after_them(two):
    assert (MVTEC[0], MVTEC[-1]) == ("carpet", "zipper")
    assert (len(TEXTURES), len(OBJECTS)) == (5, 10)
    grid = plan_grid(two)
    assert (grid.rows, grid.missing) == (("grid", "plate"), ())  # nothing else was asked for
    assert [cell.category for cell in grid.cells] == ["grid", "plate"]
    assert plan_grid(two, categories="plate,grid").rows == ("grid", "plate")
    assert plan_grid(two, categories="textures").rows == TEXTURES
    assert plan_grid(two, categories="grid, bottle").missing == ("bottle",)
    assert plan_grid(two / "plate").rows == ("plate",)  # one category, which is none of MVTec AD's


def test_the_first_seed_of_everything_comes_first(two):
    grid = plan_grid(two, categories="grid,plate", methods="efficientad,patchcore", seeds="3,1")
    assert [(c.seed, c.method, c.category) for c in grid.cells] == [
        (seed, method, category)
        for seed in (3, 1)
        for method in ("efficientad", "patchcore")
        for category in ("grid", "plate")
    ]
    assert all(cell.options["seed"] == cell.seed for cell in grid.cells)


def test_a_method_may_have_seeds_of_its_own(two):
    call = {"categories": "plate", "methods": "patchcore,efficientad"}
    grid = plan_grid(two, **call, seeds="0,1,2", sets=["efficientad.seeds=1", "efficientad.steps=5"])
    assert grid.seeds == {"patchcore": (0, 1, 2), "efficientad": (1,)}
    found = [(c.method, c.seed) for c in grid.cells]
    assert found == [("patchcore", 0), ("efficientad", 1), ("patchcore", 1), ("patchcore", 2)]
    assert methods_and_seeds(grid) == "patchcore (seeds 0, 1, 2), efficientad (seed 1)"
    same = plan_grid(two, **call, seeds="0,1,2", sets=["efficientad.steps=5"])  # seeds make no other cells
    assert {c.name for c in grid.cells} < {c.name for c in same.cells}
    with pytest.raises(InputError, match="seeds x: not whole"):
        plan_grid(two, **call, sets=["efficientad.seeds=x"])


def test_few_pictures_are_columns_of_their_own_and_draws_are_seeds(two):
    grid = plan_grid(two, categories="grid", seeds="0,1", shots="1,4")
    assert grid.methods == ("patchcore-1-shot", "patchcore-4-shot")
    assert [(c.method, c.shots, c.seed) for c in grid.cells] == [
        (f"patchcore-{shots}-shot", shots, seed) for seed in (0, 1) for shots in (1, 4)
    ]
    assert not {*names(grid)} & {*names(plan_grid(two, categories="grid", seeds="0,1"))}
    for call in ({"shots": "0"}, {"shots": "x"}):
        with pytest.raises(InputError, match="--shots"):
            plan_grid(two, **call)


def test_light_is_another_setting(two):
    plain, lit = plan_grid(two), plan_grid(two, light=0.1)
    assert not {*names(plain)} & {*names(lit)}
    assert all(cell.shared["light"] == cell.identity["light"] == 0.1 for cell in lit.cells)
    assert not any("light" in cell.identity for cell in plain.cells)  # names as before there was a range


def test_options_of_a_fit_reach_the_fit_and_its_memory(two):
    given = {"group": r"^(\d)", "light": "10%", "device": "cpu", "minutes": 2, "good": "good"}
    assert given.keys() == {option.name for option in SHARED_OPTIONS}
    (cell,) = plan_grid(two, categories="grid", methods="efficientad", **given).cells
    assert cell.fit_arguments == {"group": r"^(\d)", "light": 0.1, "device": "cpu", "minutes": 2}
    predicted = benchmark._fit_arguments(cell, str(two))
    assert predicted.items() >= {"group": r"^(\d)", "light": 0.1, "device": "cpu", "good": "good"}.items()
    assert "minutes" not in predicted  # memory does not depend on it
    with pytest.raises(TypeError, match="lights"):
        plan_grid(two, lights=0.1)


def test_settings_come_from_the_file_by_category_then_from_set(two, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("size: 128\nratio: 0.2\nseed: 7\ncategories:\n  plate: {size: 96}\n", encoding="utf-8")
    call = {"configs": [f"patchcore={file}"], "sets": ["patchcore.ratio=0.3"]}
    found = {c.category: c.options for c in plan_grid(two, categories="grid,plate", **call).cells}
    assert (found["grid"]["size"], found["grid"]["ratio"], found["grid"]["seed"]) == ("128", 0.3, 0)
    assert (found["plate"]["size"], found["plate"]["ratio"]) == ("96", 0.3)
    empty = tmp_path / "e.yaml"  # lines without a value are the default, as `fit` reads them
    empty.write_text("method:\npreset:\nseen:\n", encoding="utf-8")
    assert names(plan_grid(two, configs=[f"patchcore={empty}"])) == names(plan_grid(two))
    paper = plan_grid(two, sets=["patchcore.preset=paper"]).cells[0].options
    assert (paper["backbone"], paper["crop"]) == ("wide_resnet50_2.tv_in1k", [224, 224])


def test_steps_minutes_and_seen_go_to_the_methods_that_know_them(two):
    cells = plan_grid(two, methods="patchcore,efficientad,prnet", steps=9, seen="2").cells
    found = {cell.method: cell for cell in cells}
    assert "steps" not in found["patchcore"].options
    assert found["efficientad"].options["steps"] == found["prnet"].options["steps"] == 9
    assert {m: c.seen for m, c in found.items()} == {"patchcore": 0, "efficientad": 0, "prnet": 2}
    both = {"methods": "patchcore,efficientad", "sets": ["efficientad.preset=paper"]}
    timed = {cell.method: cell for cell in plan_grid(two, **both, minutes=2).cells}
    assert {method: cell.shared["minutes"] for method, cell in timed.items()} == {
        "patchcore": None,
        "efficientad": 2,
    }
    assert timed["efficientad"].options["steps"] is None  # wins over the preset's 70,000


def test_folders_that_nobody_knows_are_named(two, tmp_path):
    """The question of which folders are good names --good: it answers it here, too."""
    part = tmp_path / "data/part"
    shutil.copytree(two / "grid/train/good", part / "good")
    shutil.copytree(two / "grid/train/good", part / "charge7")
    with pytest.raises(InputError, match="--good"):
        plan_grid(tmp_path / "data")
    (cell,) = plan_grid(tmp_path / "data", good="good").cells
    assert (cell.shared["good"], cell.identity["good"]) == ("good", "good")
    assert "good" not in plan_grid(two, categories="grid").cells[0].identity


def test_a_cell_is_called_by_what_decides_its_result_and_by_nothing_else(two, tmp_path, monkeypatch):
    base = names(plan_grid(two, categories="grid"))
    assert names(plan_grid(two, categories="all", seeds="0,1"))[0] == base[0]
    assert names(plan_grid(two, categories="grid", sets=["patchcore.size=256+512"])) == base  # the default
    moved = tmp_path / "elsewhere"
    shutil.copytree(two, moved)
    assert names(plan_grid(moved, categories="grid")) == base
    more = ({"sets": ["patchcore.size=64"]}, {"seeds": "1"}, {"device": "cpu"}, {"group": r"^(\d)"})
    others = [names(plan_grid(two, categories="grid", **one)) for one in more]
    next((moved / "grid/train/good").iterdir()).unlink()
    others.append(names(plan_grid(moved, categories="grid")))
    (moved / "grid/defects_config.json").write_text("[]")  # fixes the saturation
    others.append(names(plan_grid(moved, categories="grid")))
    monkeypatch.setattr("flawscope.evaluation.benchmark.grid.__version__", "0.0.1")
    others.append(names(plan_grid(two, categories="grid")))
    assert len({base[0], *(found[0] for found in others)}) == 8


@pytest.mark.parametrize("kind", ["picture", "mask"])
def test_data_count_by_content_not_by_name_and_size(two, tmp_path, kind):
    """One byte far inside a BMP: name, size and time are as before."""
    shutil.copytree(two / "grid", tmp_path / "grid")
    if kind == "picture":
        path = tmp_path / "grid/train/good/large.bmp"
        Image.new("RGB", (400, 300)).save(path)
    else:
        path = next((tmp_path / "grid/ground_truth").rglob("*.png"))
    before, times = names(plan_grid(tmp_path)), path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert names(plan_grid(tmp_path)) != before


def test_a_file_that_a_setting_names_counts_by_its_content(two, tmp_path):
    def name(path, text):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return names(plan_grid(two, categories="grid", sets=[f"patchcore.weights={path}"]))[0]

    first = name(tmp_path / "a" / "w.pth", "one")
    assert name(tmp_path / "b" / "w.pth", "one") == first
    assert name(tmp_path / "b" / "w.pth", "two") != first
    cell = plan_grid(two, categories="grid", sets=[f"patchcore.weights={tmp_path / 'a' / 'w.pth'}"]).cells[0]
    assert str(tmp_path) not in str(cell.identity)


def test_seen_defects_and_textures_count_by_their_content(two, tmp_path):
    """Pictures and masks, wherever they lie; a byte that changes no size is seen."""

    def cell(seen, textures):
        sets = [f"prnet.textures={textures}"]
        return plan_grid(two, categories="grid", methods="prnet", seen=str(seen), sets=sets).cells[0]

    def made(root):
        folder, masks = root / "defects", root / "masks"  # the masks lie beside the folder
        for path in (folder / "a.png", masks / "a.png", root / "textures" / "t.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"0" * 9)
        listed = root / "list.txt"
        listed.write_text(f"{folder / 'a.png'}\n", encoding="utf-8")
        return folder, listed, root / "textures"

    folder, listed, textures = made(tmp_path / "here")
    first, by_list = cell(folder, textures), cell(listed, textures)
    assert str(tmp_path) not in str(first.identity) + str(by_list.identity)
    moved = made(tmp_path / "elsewhere")
    assert (cell(moved[0], moved[2]).name, cell(moved[1], moved[2]).name) == (first.name, by_list.name)
    for changed in ("defects/a.png", "masks/a.png"):
        (tmp_path / "here" / changed).write_bytes(b"1" * 9)
        second, second_by_list = cell(folder, textures), cell(listed, textures)
        assert second.name != first.name
        assert second_by_list.name != by_list.name
        first, by_list = second, second_by_list
    (textures / "t.png").write_bytes(b"1" * 9)
    assert cell(folder, textures).name != first.name


def test_a_category_that_cannot_be_used_does_not_stop_the_others(two, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(two, root)
    shutil.rmtree(root / "plate/test")
    grid = plan_grid(root, categories="grid,plate")
    assert [cell.category for cell in grid.cells] == ["grid"]
    assert "no test pictures" in grid.unusable["plate"]
    with pytest.raises(InputError, match="no test pictures"):
        plan_grid(root, categories="plate")
    with pytest.raises(InputError, match="no category to work with"):
        plan_grid(two / "plate/train/good")
    (tmp_path / "empty").mkdir()
    unusable = plan_grid(two, categories="grid", methods="patchcore,prnet", seen=str(tmp_path / "empty"))
    assert [cell.method for cell in unusable.cells] == ["patchcore", "prnet"]  # of seen defects


@pytest.mark.parametrize(
    ("call", "match"),
    [
        ({"methods": "patchcore,nosuch"}, "no method called nosuch: known: patchcore, efficientad"),
        ({"methods": ","}, "--methods is empty"),
        ({"seeds": "0,x"}, "not whole numbers"),
        ({"categories": "gridd"}, "none of --categories gridd is there; did you mean grid?"),
        ({"sets": ["size=3"]}, "write it as METHOD.key=value"),
        ({"sets": ["efficientad.steps=3"]}, "efficientad is none of --methods patchcore"),
        ({"sets": ["patchcore.sizee=64"]}, "unknown setting sizee; did you mean size?"),
        ({"sets": ["patchcore.seed=1"]}, "give --seeds, or"),
        ({"sets": ["patchcore.seen=3"]}, "learns from good pictures only"),
        ({"configs": ["patchcore"]}, "write it as METHOD=FILE"),
        ({"configs": ["patchcore=nowhere.yaml"]}, "cannot read config nowhere.yaml"),
        ({"steps": 3}, "none of patchcore learns in steps"),
        ({"seen": "3"}, "learn from good pictures only"),
        ({"group": "("}, "not a regular expression"),
        ({"light": 0.5}, "light 50%: a range above 30% is no small change"),
    ],
)
def test_wrong_calls_are_told_before_anything_runs(two, call, match):
    with pytest.raises(InputError, match=match.replace("?", r"\?")) as caught:
        plan_grid(two, **call)
    assert "\n" not in str(caught.value)
