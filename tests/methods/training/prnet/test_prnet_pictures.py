"""What PRN learns from: defects are where the mask is and nowhere else, and batches are as set."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from flawscope.methods.training.prnet.training_pictures import EXTENDED, GOOD, ORIGINAL, SIMULATED

Pictures = list[np.ndarray]


def shots_of(few, kind):
    """Pictures of 8 bits; with values that are no multiples of 1/255; or with marked padding."""
    shots = [torch.from_numpy(picture).permute(2, 0, 1).float() / 255 for picture in few]
    if kind == "deep":
        noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) / 300
        return [(shot + noise).clamp(0, 1) for shot in shots]
    for shot in shots if kind == "padded" else ():
        shot[:, :20], shot[:, 44:] = -1 - shot[:, 20:21], -1 - shot[:, 43:44]
    return shots


@pytest.mark.parametrize("shots", ["eight bits", "deep", "padded"])
@pytest.mark.parametrize(("extended", "kind"), [(False, SIMULATED), (True, EXTENDED)])
def test_a_good_picture_changes_inside_the_mask_and_nowhere_else(pictures_of, few, shots, extended, kind):
    pictures = pictures_of(shots_of(few, shots), original=0.0, keep_aspect=shots == "padded")
    for k in range(12):
        place = k % len(few)
        shown = pictures.defective(place, extended, np.random.default_rng(k))
        good, mask = pictures.images[place], shown.mask[0] > 0
        assert (shown.kind, shown.place) == (kind, place)
        assert (shown.image.shape, shown.mask.shape) == ((3, 64, 64), (1, 64, 64))
        assert (shown.image.dtype, shown.mask.dtype) == (torch.float32, torch.float32)
        assert set(shown.mask.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(shown.image[:, ~mask], good[:, ~mask])  # to the last bit
        assert bool((shown.image != good).any(0)[mask].all())
        assert not bool((mask & (good[0] < 0)).any())  # none on padding, which stays marked
        changed = (shown.image - good).abs().amax(0)[mask]
        assert float(changed.mean()) * 255 > 11 or shots == "padded"  # it shows
        assert 0 <= float(shown.image[:, mask].min()) <= float(shown.image[:, mask].max()) <= 1


def test_defects_lie_on_the_object(pictures_of):
    """A dark square on white: four fifths of the picture are background, and get no simulated defect."""
    shot = torch.ones(3, 64, 64)
    shot[:, 20:44, 16:48] = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0)) * 0.3
    pictures = pictures_of([shot] * 2)
    touched = torch.zeros(64, 64)
    for k in range(20):
        touched += pictures.defective(0, False, np.random.default_rng(k)).mask[0]
    outside = touched.clone()
    outside[17:47, 13:51] = 0
    assert float(outside.sum()) == 0
    assert float((touched[20:44, 16:48] > 0).float().mean()) > 0.5


def folder_of(path, *colours):
    path.mkdir()
    for k, colour in enumerate(colours):
        Image.fromarray(np.full((64, 64, 3), colour, np.uint8)).save(path / f"{k}.png")
    return path


def test_textures_of_a_folder_are_what_defects_are_made_of(pictures_of, tmp_path):
    """Pure green in a grey scene comes from nowhere else."""
    grey = [torch.full((3, 64, 64), 0.4) + 0.1 * torch.rand(1, 64, 64) for _ in range(2)]
    for shot in grey:
        shot[0] += 0.02  # not quite grey: of grey pictures the textures lose their colour
    green = pictures_of(grey, textures=str(folder_of(tmp_path / "green", (0, 255, 0))))
    plain = pictures_of(grey)

    def greenest(pictures):
        shown = [pictures.defective(0, False, np.random.default_rng(k)) for k in range(16)]
        inside = [s.image[:, s.mask[0] > 0] for s in shown]
        return [float((i[1] - torch.maximum(i[0], i[2])).mean()) for i in inside]

    assert sum(g > 0.1 for g in greenest(green)) >= 4  # half are of texture, some faint
    assert sum(g > 0.1 for g in greenest(plain)) < 4


def watched(trainer):
    """Kinds and places of all that is shown from now on."""
    seen = []
    show = trainer._draw_picture

    def watch(step, k, good):
        shown = show(step, k, good)
        seen.append((shown.kind, shown.place))
        return shown

    trainer._draw_picture = watch
    return seen


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {EXTENDED, ORIGINAL, SIMULATED}),
        ({"extended": 1.0, "original": 0.0}, {EXTENDED}),
        ({"extended": 1.0, "original": 1.0}, {ORIGINAL}),
        ({"extended": 0.0}, {SIMULATED}),
        ({"seen": 0}, {SIMULATED}),
        ({"seen": 0, "extended": 1.0, "original": 1.0}, {SIMULATED}),
    ],
)
def test_half_of_a_batch_is_good_and_the_rest_as_set(trainer_of, settings, expected):
    trainer = trainer_of(pictures=3, batch=4, **settings)
    seen = watched(trainer)
    for step in range(6):
        batch = trainer.batch(step)
        empty = batch.masks.flatten(1).amax(1) == 0
        assert empty.tolist() == [True, True, False, False]
        assert batch.images.shape == (4, 3, 64, 64)
        assert batch.masks.shape == (4, 1, 64, 64)
        based = sum(place >= 0 for place in batch.places)
        assert [tuple(maps.shape[:2]) for maps in batch.originals] == [(based, c) for c in (24, 40, 112)]
    kinds = Counter(kind for kind, _ in seen)
    assert kinds.pop(GOOD) == 12
    assert set(kinds) == expected
    assert sum(kinds.values()) == 12
    if expected == {EXTENDED, ORIGINAL, SIMULATED}:
        assert kinds[SIMULATED] == 6  # spread evenly, not drawn
