"""Files of a part belong together in time; what is left over is told and done with."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from flawscope_station.inspecting.interlock import FrozenError
from flawscope_station.inspecting.picture import Part
from flawscope_station.sources.gathering import SeenView, gather
from folder_parts import BEGIN, DEADLINE, Folder, TwoViews, run_parts

SECOND = 10**9


@pytest.mark.parametrize(
    ("files", "groups"),
    [
        ("l0 t1", ["l0 t1"]),
        ("t0 l1", ["l1 t0"]),
        ("l0 t6", ["l0 lacks top", "t6 lacks left, and is last"]),
        ("l0 t86400 l86401", ["l0 lacks top", "l86401 t86400"]),
        ("l0 t1 l2 t3", ["l0 t1", "l2 t3"]),
        ("l0 l1 t2", ["l0 l1 t2 came twice, and is last"]),  # of which part is t2?
        ("l0 l6 t7", ["l0 lacks top", "l6 t7"]),
        ("l0 l1 t7 l8", ["l0 l1 came twice", "l8 t7"]),
        ("l0 t5.1", ["l0 lacks top", "t5.1 lacks left, and is last"]),
        ("l0 t7", ["l0 lacks top", "t7 lacks left, and is last"]),
    ],
)
def test_views_of_a_number_are_a_part_where_they_were_written_soon_after_each_other(files, groups):
    names = {"l": "left", "t": "top"}
    seen = [
        SeenView(Path(one), ("7", None), names[one[0]], round(float(one[1:]) * SECOND) + 1)
        for one in files.split()
    ]
    found = []
    for group in gather(seen, ["left", "top"], 5.0):
        words = [str(one.path) for one in group.files]
        why = group.why.removeprefix("part 7 ").partition(" within")[0].partition(";")[0]
        words += [why] if why else []
        found.append(" ".join(words) + ("" if group.is_over or not group.why else ", and is last"))
    assert found == groups


@pytest.mark.parametrize(("seconds", "hinted"), [(25, True), (86_400, False)])
def test_what_lacks_a_view_says_that_clocks_may_differ(seconds, hinted):
    """Two computers write the views; the clock of one is behind. Numbers that come again are no such case."""
    seen = [
        SeenView(Path(view), ("7", None), view, at * SECOND + 1)
        for view, at in (("left", 0), ("top", seconds))
    ]
    first, _ = gather(seen, ["left", "top"], 10.0)
    hint = "; a file that shows top is 25 s younger: if it is of the same part, the clocks of the computers"
    assert first.why.startswith(f"part 7 lacks top{hint if hinted else ''}")
    assert (hint in first.why) is hinted


def test_rounded_times_may_lie_two_seconds_further_apart():
    seen = [SeenView(Path(view), ("7", None), view, at * SECOND) for view, at in (("left", 0), ("top", 2))]
    assert [group.why for group in gather(seen, ["left", "top"], 1.0)] == [""]
    assert next(
        gather([*seen[:1], SeenView(Path("top"), ("7", None), "top", 4 * SECOND)], ["left", "top"], 1.0)
    ).why


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("then", ["keep", "move"])
def test_no_part_is_made_of_two_and_none_is_lost(tmp_path, then, coarse):
    found = run_parts(tmp_path, 9, then, coarse)
    assert found["judged"] >= 3
    assert not any(
        found[what] for what in ("from two parts", "judged twice", "files neither judged nor told")
    )


def test_what_lacks_a_view_is_told_once_and_its_number_may_come_again(tmp_path):
    folder = Folder(tmp_path, "keep", TwoViews())
    folder.put("p1_left.bmp", b"monday")
    folder.run(DEADLINE + 8)
    assert folder.refused == ["part p1 lacks top"]
    folder.restart()
    for name, at in (("p1_top.bmp", 86_400.0), ("again/p1_left.bmp", 86_401.0)):
        folder.put(name, name.encode(), BEGIN + at)
    folder.run(30)
    assert folder.judged == [[b"again/p1_left.bmp", b"p1_top.bmp"]]
    (text,) = folder.told()
    assert text.startswith("p1_left.bmp of 2023-")
    folder.database.close()


@pytest.mark.parametrize("then", ["keep", "move"])
def test_what_a_frozen_camera_repeated_is_never_judged_later(tmp_path, monkeypatch, then):
    folder = Folder(tmp_path, then)
    submit, frozen = folder.submit, [True]

    def refuse(part: Part) -> Future[Any]:
        if not frozen:
            return submit(part)
        answer = Future[Any]()
        answer.set_exception(FrozenError("the same picture comes again and again"))
        return answer

    monkeypatch.setattr(folder, "submit", refuse)
    folder.restart()
    folder.put("P013.bmp", b"the same")
    folder.run(8)
    frozen.clear()
    folder.put("P014.bmp", b"new")
    folder.run(8)
    folder.restart()
    folder.run(8)
    assert folder.judged == [[b"new"]]
    assert [text.partition(" of 2023")[0] for text in folder.told()] == ["P013.bmp"]
    folder.database.close()
