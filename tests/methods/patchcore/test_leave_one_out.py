"""A bank as if a group had never been there, beside one that never met it."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from tests.methods.patchcore.test_patchcore_model import Pixels

from flawscope.errors import InputError
from flawscope.methods.patchcore import selected_bank
from flawscope.methods.patchcore.coreset import select
from flawscope.methods.patchcore.model import BankBranch
from flawscope.methods.patchcore.record import Config
from flawscope.methods.patchcore.scores import SCORES
from flawscope.methods.patchcore.selected_bank import (
    STRIDE,
    BankWithout,
    SelectedBank,
    settle,
)
from flawscope.methods.settings import BranchSpec

PATCHES = 24  # of a picture of 32 x 48
CONFIG = Config(size="32x48", neighbourhood=1, stages=(2,))


def pictures(count, seed):
    """[count, PATCHES, 3]: patches in 24 clusters, one at each place, none like another."""
    rng = torch.Generator().manual_seed(seed)
    places = torch.randn(PATCHES, 3, generator=torch.Generator().manual_seed(0)) * 20
    return places + torch.randn(count, PATCHES, 3, generator=rng)


def selected(shown, ratio, groups=None):
    points = shown.flatten(0, 1)
    of = (torch.arange(len(shown)) if groups is None else groups).repeat_interleave(PATCHES)
    result = select(points, round(ratio * len(points)), groups=of)
    branch = BankBranch(CONFIG, Pixels(), BranchSpec((32, 48), (2,)), torch.ones(32, 48, dtype=torch.bool))
    branch.set_bank(points[result.indices])
    return SelectedBank(branch, of[result.indices], points, of, result), result


def settled(selection, picture, group, known, counted):
    bank = selection.without_group(picture, group, counted, known)
    settle([bank], lambda maps: maps[0])
    return bank


def left_out(shown, ratio):
    """The largest distance of each picture to the bank as if it had never been there."""
    selection, result = selected(shown, ratio)
    known = result.leave_out.view(len(shown), PATCHES)
    counted = torch.ones(PATCHES)
    return np.array(
        [float(settled(selection, p, i, known[i], counted).distances.max()) for i, p in enumerate(shown)]
    )


def refitted(shown, ratio):
    found = []
    for i, picture in enumerate(shown):
        branch = selected(torch.cat([shown[:i], shown[i + 1 :]]), ratio)[0].branch
        relative = (picture - branch.centre)[None]
        found.append(float(branch.search(relative, torch.ones(PATCHES)).max()))
    return np.array(found)


@pytest.mark.parametrize(("ratio", "full"), [(0.05, 30), (0.05, 5), (0.2, 30)])
def test_as_a_bank_that_never_met_the_picture(monkeypatch, ratio, full):
    """Its own element leaves its cluster empty: without selecting anew scores are several times too high."""
    monkeypatch.setattr(selected_bank, "FULL_CELLS", full)
    shown = pictures(20, 1)
    real, found = refitted(shown, ratio), left_out(shown, ratio)
    assert np.median(found) == pytest.approx(np.median(real), rel=0.1)
    assert found.max() == pytest.approx(real.max(), rel=0.25)
    _, result = selected(shown, ratio)
    removed = result.leave_out.view(20, PATCHES).amax(1).numpy()
    assert np.median(removed) > (2 if ratio == 0.05 else 1.05) * np.median(real)


def test_a_bank_of_all_patches_kept_nothing_out():
    shown = pictures(6, 2)
    found = left_out(shown, 1.0)
    for i, picture in enumerate(shown):
        others = torch.cat([shown[:i], shown[i + 1 :]]).flatten(0, 1)
        assert found[i] == pytest.approx(float(torch.cdist(picture, others).amin(1).max()), rel=1e-4)


def test_nothing_of_the_group_is_left(monkeypatch):
    monkeypatch.setattr(selected_bank, "FARTHEST", PATCHES)  # all are looked at
    shown, groups = pictures(9, 3), torch.arange(9) // 3
    selection, result = selected(shown, 0.3, groups)
    known = result.leave_out.view(9, PATCHES)[4]
    found = settled(selection, shown[4], 1, known, torch.ones(PATCHES))
    own = selection.groups == 1
    assert bool(found.missing[own].all())
    others = torch.cat([shown[:3], shown[6:]]).flatten(0, 1) - selection.branch.centre
    assert float(torch.cdist(found.added, others).amin(1).max()) < 0.05  # patches of other parts alone
    bank = torch.cat([selection.branch.bank[~found.missing], found.added])
    literal = torch.cdist(shown[4] - selection.branch.centre, bank).amin(1)
    torch.testing.assert_close(found.distances, literal, rtol=1e-3, atol=1e-3)


def test_what_does_not_count_is_not_looked_at():
    shown = pictures(8, 4)
    selection, result = selected(shown, 0.3)
    counted = torch.zeros(PATCHES).index_fill(0, torch.tensor([3, 5]), 1.0)
    strange = shown[2].index_fill(0, torch.tensor([7]), 1e3)
    known = result.leave_out.view(8, PATCHES)[2]
    distances = settled(selection, strange, 2, known, counted).distances
    assert distances[counted == 0].abs().max() == 0
    assert distances[[3, 5]].min() > 0


def test_a_bank_of_which_nothing_is_left_is_selected_anew():
    """Of two elements one is the picture's own, and the other is freed."""
    shown = pictures(4, 6)
    selection, result = selected(shown, 2 / (4 * PATCHES))
    group = int(selection.groups[0])
    known = result.leave_out.view(4, PATCHES)[group]
    found = settled(selection, shown[group], group, known, torch.ones(PATCHES))
    assert bool(found.missing.all())
    assert len(found.added)
    assert bool(found.distances.isfinite().all())


def test_pictures_of_one_part_cannot_be_left_out():
    shown = pictures(3, 5)
    selection, _ = selected(shown, 0.3, torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match="at least two parts"):
        selection.without_group(shown[0], 0, torch.ones(PATCHES))


def test_what_decides_in_a_view_and_in_all_together_is_looked_at(monkeypatch):
    """The farthest patch of each branch, and where its map and the joined map have their maxima."""
    config = Config(size="160x240", neighbourhood=1, stages=(2,))  # 600 patches of 8 pixels
    branch = BankBranch(
        config, Pixels(), BranchSpec((160, 240), (2,)), torch.ones(160, 240, dtype=torch.bool)
    )
    branch.set_bank(torch.zeros(2, 3))
    selection, rng = SelectedBank.__new__(SelectedBank), torch.Generator().manual_seed(4)
    selection.branch, selection.groups, selection.radius = branch, torch.tensor([0, 1]), 1.0
    away = [torch.rand(600, generator=rng) for _ in range(2)]
    away[0][100], away[1][500] = 0.9, 0.9
    away[0][300] = away[1][300] = 1.5  # in both: decides together
    nothing = torch.zeros(0, dtype=torch.long), torch.zeros(0, 3)
    monkeypatch.setattr(BankWithout, "_select_again", lambda self, far: nothing)
    banks = [selection.without_group(torch.zeros(600, 3), 1, torch.ones(600), one) for one in away]
    looked_at = [set(), set()]
    whole = BankWithout.look_at

    def look_at(self, patches):
        looked_at[banks.index(self)].update(patches.tolist())
        return whole(self, patches)

    monkeypatch.setattr(BankWithout, "look_at", look_at)
    settle(banks, lambda maps: maps[0] * maps[1])
    maps = [branch.anomaly_map(one[None])[0][STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE] for one in away]
    for found, one, drawn in zip(looked_at, away, maps, strict=True):
        places = [divmod(int(values.argmax()), 60) for values in (drawn, maps[0] * maps[1])]
        assert found == {int(one.argmax()), *(row // 2 * 30 + column // 2 for row, column in places)}


def test_each_score_is_one_record():
    """A value of the setting without a record would be scored, settled and compared as another."""
    assert {*get_args(get_type_hints(Config)["score"])} == SCORES.keys()
    folder = Path(selected_bank.__file__).parent
    for path in folder.glob("*.py"):
        compared = re.findall(r"\.score (?:==|!=|in) ", path.read_text(encoding="utf-8"))
        assert compared == [], path.name
