import numpy as np
import pytest
from PIL import Image

from flawscope.datasets import open_dataset
from flawscope.synthesis.demo.dataset import CATEGORIES, draw_dataset, draw_picture

ALL = [(c, d) for c, known in CATEGORIES.items() for d in known.defects]


def files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.png"))}


@pytest.mark.parametrize(("category", "defect"), ALL)
def test_the_mask_is_exactly_what_the_defect_changed(category, defect):
    for size in (16, 31, 160):
        good, nothing = draw_picture(category, np.random.default_rng(4), size=size)
        assert (good.shape, good.dtype, nothing.any()) == ((size, size, 3), np.uint8, False)
        for difficulty in (0.0, 0.5, 1.0):
            bad, mask = draw_picture(category, np.random.default_rng(4), defect, difficulty, size=size)
            assert (bad.dtype, mask.shape, mask.dtype) == (np.uint8, (size, size), np.bool_)
            assert mask.any()
            assert (bad[~mask] == good[~mask]).all()
            assert size < 160 or np.abs(bad.astype(int) - good).max(-1)[mask].mean() >= 5


@pytest.mark.parametrize(("category", "defect"), ALL)
def test_hard_defects_are_smaller_or_fainter(category, defect):
    def amount(difficulty):
        total = 0.0
        for seed in range(3):
            good, _ = draw_picture(category, np.random.default_rng(seed), size=160)
            bad, _ = draw_picture(category, np.random.default_rng(seed), defect, difficulty, size=160)
            total += float(np.abs(bad.astype(int) - good).sum())
        return total

    assert amount(1.0) < 0.6 * amount(0.0)


def test_pictures_do_not_depend_on_how_many_are_drawn(tmp_path):
    few = files(draw_dataset(tmp_path / "few", train=1, good=1, bad_per_kind=1, size=48, seed=5))
    many = files(draw_dataset(tmp_path / "many", train=2, good=2, bad_per_kind=2, size=48, seed=5))
    other = files(draw_dataset(tmp_path / "other", train=1, good=1, bad_per_kind=1, size=48, seed=6))
    assert few.items() <= many.items()
    assert few.keys() == other.keys()
    pictures = [n for n in few if "ground_truth" not in n]
    assert all(few[name] != other[name] for name in pictures)
    assert len({many[n] for n in many if "ground_truth" not in n}) == 2 + 2 + 2 * len(
        CATEGORIES["plate"].defects
    )


@pytest.mark.parametrize("category", list(CATEGORIES))
def test_it_opens_as_an_mvtec_data_set(category, tmp_path):
    folder = draw_dataset(tmp_path, category=category, train=3, good=2, bad_per_kind=2, size=40)
    assert folder == tmp_path / category
    dataset = open_dataset(tmp_path, category)
    defects = CATEGORIES[category].defects
    assert len(dataset.train) == 3
    assert len(dataset.test) == 2 + 2 * len(defects)
    assert dataset.has_masks
    assert set(dataset.kinds) - {"good"} == set(defects)
    for path in (folder / "ground_truth").rglob("*.png"):
        mask = np.asarray(Image.open(path))
        assert mask.shape == (40, 40)
        assert set(np.unique(mask)) == {0, 255}
        assert (folder / "test" / path.parent.name / path.name.replace("_mask", "")).is_file()
