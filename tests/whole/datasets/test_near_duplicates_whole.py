"""Copies are found, different pictures of the same product are not."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from flawscope.datasets.check import check
from flawscope.pictures.near_duplicates import (
    Look,
    clusters,
    near_duplicates,
)
from flawscope.synthesis.demo.dataset import draw_dataset, draw_picture
from near_duplicates_helpers import product

BICUBIC = Image.Resampling.BICUBIC


def jpeg(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=60)
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")


def crop(image):
    w, h = image.size
    return image.crop((round(0.015 * w), round(0.015 * h), round(0.985 * w), round(0.985 * h)))


CHANGES = {
    "jpeg 60": jpeg,
    "2 % brighter": lambda i: i.point(lambda v: min(255, round(1.02 * v))),
    "one pixel aside": lambda i: Image.fromarray(np.roll(np.asarray(i), (1, 1), (0, 1))),
    "resized by 3 %": lambda i: i.resize((round(0.97 * i.width), round(0.97 * i.height))),
    "cropped by 3 %": crop,
}
CHANGES["all"] = lambda i: jpeg(
    CHANGES["resized by 3 %"](CHANGES["one pixel aside"](CHANGES["2 % brighter"](i)))
)


def small(image):
    return Look.of(np.asarray(image))


def pairs(looks, bank):
    found = near_duplicates(looks, np.array(bank, np.intp))
    return [(i, j) for i, j, _ in found]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(change):
    images = [product(k) for k in range(12)]
    thumbnails = [small(i) for i in images] + [small(CHANGES[change](images[4]))]
    assert pairs(thumbnails, list(range(13))) == [(4, 12)]


def lattice(seed, side=256):
    """A woven texture that repeats after 24 pixels, begun anywhere, with a camera's noise, hardly uneven."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] + rng.uniform(0, 24, 2)[:, None, None]
    uneven = Image.fromarray(rng.normal(0, 4, (6, 6)).astype(np.float32)).resize((side, side), BICUBIC)
    grey = 110 + 50 * np.cos(2 * np.pi * x / 24) * np.cos(2 * np.pi * y / 24) + np.asarray(uneven)
    return Image.fromarray(np.clip(grey + rng.normal(0, 12, x.shape), 0, 255).astype(np.uint8)).convert("RGB")


def faint_surface(seed):
    """Brushed metal, in grey levels: streaks hardly stronger than the camera's noise."""
    surface = np.random.default_rng(seed).standard_normal((256, 256))
    return np.asarray(150 + 40 * ndimage.gaussian_filter(surface, (0.5, 25)))


def taken(surface, seed):
    noisy = surface + np.random.default_rng(seed).normal(0, 1.7, surface.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda surface, seed: taken(surface, seed), 10),
        (lambda surface, seed: taken(0.8 * surface, seed), 10),
        (lambda surface, seed: jpeg(taken(surface, seed)), 7),
        (lambda surface, seed: taken(np.roll(surface, (3, -3), (0, 1)), seed), 10),
    ],
    ids=["again", "darker", "jpeg", "shifted"],
)
def test_copies_of_a_faint_surface(change, least):
    surfaces = [faint_surface(seed) for seed in range(10)]
    looks = [small(taken(surface, 100 + k)) for k, surface in enumerate(surfaces)]
    looks += [small(change(surface, 200 + k)) for k, surface in enumerate(surfaces)]
    found = pairs(looks, [*range(20)])
    assert {*found} <= {(k, 10 + k) for k in range(10)}
    assert len(found) >= least


def test_all_copies_of_a_fine_faint_surface_are_one_cluster():
    rows, columns = np.mgrid[:256, :256]
    surfaces = []
    for seed in range(8):
        first, second = np.random.default_rng(seed).uniform(0, 6.28, 2)
        mesh = 30 * np.sin(0.6 * columns + first) * np.sin(0.6 * rows + second)
        uneven = 10 * ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(mesh.shape), 1)
        surfaces.append(120 + mesh + uneven)
    looks = [small(taken(surfaces[k // 3], 100 + k)) for k in range(24)]
    groups = [*clusters(near_duplicates(looks, np.arange(24)))]
    assert groups == [[k, k + 1, k + 2] for k in range(0, 24, 3)]
    assert list(clusters([(5, 9, 1.0), (1, 2, 1.0), (2, 9, 1.0), (3, 4, 1.0)])) == [[1, 2, 5, 9], [3, 4]]


def test_neither_a_faint_print_nor_nothing_makes_copies():
    surface = faint_surface(0)
    looks = [small(taken(surface + 0.5 * (faint_surface(k) - 150), 100 + k)) for k in range(1, 13)]
    assert pairs(looks, [*range(12)]) == []
    rng = np.random.default_rng(0)
    flat = [np.full((80, 80, 3), 90 + k, np.uint8) for k in range(3)]
    noise = [rng.integers(99, 102, (640, 640, 3), dtype=np.uint8) for _ in range(3)]
    assert pairs([Look.of(p) for p in flat + noise], list(range(6))) == []


def test_a_texture_that_repeats_is_not_taken_for_copies():
    """Some of these lie so that one fits another a period aside."""
    images = [lattice(k) for k in range(40)]
    thumbnails = [small(image) for image in images]
    assert pairs([*thumbnails, small(jpeg(images[7]))], list(range(41))) == [(7, 40)]


def test_a_uniform_product_raises_the_bar():
    # one printed face, seen 20 times with hardly any difference: alike, but not the same picture
    face = np.asarray(product(0), np.float32)
    own = [np.asarray(product(100 + k), np.float32) - np.asarray(product(0), np.float32) for k in range(20)]
    faces = [Image.fromarray(np.clip(face + 0.2 * o, 0, 255).astype(np.uint8)) for o in own]
    looks = [small(f) for f in faces]
    assert pairs([*looks, small(jpeg(faces[7]))], list(range(21))) == [(7, 20)]


def test_copies_that_were_moved_turned_and_mirrored():
    images = [product(k) for k in range(8)]
    turned = [i.rotate(1.5, BICUBIC, translate=(8, -6)) for i in images]
    turned[3:] = [i.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for i in turned[3:]]
    looks = [small(i) for i in [*images, *turned]]
    assert pairs(looks, [*range(16)]) == [(k, 8 + k) for k in range(8)]


def turned_plate(k, angle):
    rng = np.random.default_rng([67, k])
    plate = Image.fromarray(draw_picture("plate", rng, size=150)[0]).convert("RGBA")
    shown = plate.rotate(angle, BICUBIC, expand=True)
    level = rng.normal(70, 4, (256, 256, 1)).repeat(3, 2).clip(0, 255).astype(np.uint8)
    ground = Image.fromarray(level)
    ground.paste(shown, ((256 - shown.width) // 2, (256 - shown.height) // 2), shown)
    return ground


def test_parts_that_lie_turned_alike_are_no_copies():
    """Two that lie at nearly the same angle share what no other picture of the set shows."""
    angles = np.random.default_rng(0).uniform(0, 360, 18)
    looks = [small(turned_plate(k, angle)) for k, angle in enumerate(angles)]
    copy = small(turned_plate(4, angles[4]).rotate(1, BICUBIC, translate=(2, 1), fillcolor=(70,) * 3))
    assert pairs([*looks, copy], range(19)) == [(4, 18)]


def test_all_may_be_copies_and_only_pairs_with_the_bank_count():
    images = [product(k) for k in range(4)]
    thumbnails = [small(i) for i in images] + [small(jpeg(i)) for i in images]
    assert pairs(thumbnails, [*range(8)]) == [(k, k + 4) for k in range(4)]
    assert pairs(thumbnails, [0]) == [(0, 4)]
    assert pairs(thumbnails, []) == []
    assert pairs(thumbnails[:1], [0]) == []


@pytest.mark.parametrize("category", ["plate", "fabric"])
def test_drawn_data_sets_have_no_false_findings(tmp_path, category):
    report = check(draw_dataset(tmp_path, category=category, train=24, good=6, bad_per_kind=1))
    assert report.findings == ()
