"""What pictures say about the camera, on drawn products and with real transformations."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from flawscope.pictures.levels import Levels
from flawscope.synthesis.demo.dataset import CATEGORIES, draw_picture
from flawscope_station.drift import camera_faults as camera
from flawscope_station.drift.camera_faults import CameraCheck, PictureMeasurements, Reference, measure_picture

SIZE = 192
Picture = Image.Image


def noisy(picture: Picture, rng: np.random.Generator, amount: float) -> Picture:
    """With a camera's noise, which comes after its lens."""
    values = np.asarray(picture, np.float32)
    return Image.fromarray(np.clip(values + rng.normal(0, amount, values.shape), 0, 255).astype(np.uint8))


def table(rng: np.random.Generator) -> Picture:
    """A part at any angle on a ground that stays."""
    marks = np.random.default_rng(5).integers(90, 140, (24, 24, 3)).astype(np.uint8)
    ground = Image.fromarray(marks).resize((SIZE, SIZE), Image.Resampling.NEAREST)
    side = SIZE // 2
    part = Image.fromarray(draw_picture("plate", rng, size=side)[0]).rotate(rng.uniform(0, 360))
    shape = Image.new("L", (side, side), 0)
    ImageDraw.Draw(shape).ellipse((6, 6, side - 6, side - 6), fill=255)
    ground.paste(part, tuple(side // 2 + int(d) for d in rng.integers(-8, 9, 2)), shape)
    light = rng.uniform(0.97, 1.03)
    return noisy(ground.point(lambda v: v * light), rng, 2)


def gears(rng: np.random.Generator) -> Picture:
    """Dark parts on a light belt, each a little elsewhere; nothing was tuned on these."""
    drawn = Image.new("RGB", (SIZE, SIZE), (205, 200, 190))
    pen = ImageDraw.Draw(drawn)
    dx, dy = rng.normal(0, 1, 2)
    for k in range(9):
        x, y = 30 + 60 * (k % 3) + dx, 30 + 60 * (k // 3) + dy
        pen.regular_polygon((x, y, 22), 6 + k % 3, rotation=int(rng.integers(0, 8)), fill=(60, 62, 70))
        pen.ellipse((x - 7, y - 7, x + 7, y + 7), fill=(205, 200, 190))
    return noisy(drawn.filter(ImageFilter.GaussianBlur(0.6)), rng, 3)


PRODUCTS: dict[str, Callable[[np.random.Generator], Picture]] = {
    "plate": lambda rng: Image.fromarray(draw_picture("plate", rng, size=SIZE)[0]),
    "fabric": lambda rng: Image.fromarray(draw_picture("fabric", rng, size=SIZE)[0]),
    "table": table,
    "gears": gears,
}
STILL = {"plate": True, "fabric": False, "table": True, "gears": True}


@cache
def pictures(product: str, first: int, count: int) -> tuple[Picture, ...]:
    return tuple(PRODUCTS[product](np.random.default_rng([31, k])) for k in range(first, first + count))


@cache
def reference(product: str) -> Reference:
    return Reference([measure_picture(one) for one in pictures(product, 0, camera.REFERENCE)])


def shown(product: str, change: Callable[[Picture, int], Picture], count: int = 12) -> set[str]:
    """What is wrong after so many new pictures."""
    watch = CameraCheck(reference(product))
    for k, one in enumerate(pictures(product, 1000, count)):
        watch.add(measure_picture(change(one, k)), float(k), good=True)
    return set(watch.faults)


def flat(colour: tuple[int, int, int], amount: float) -> Callable[[Picture, int], Picture]:
    def change(one: Picture, k: int) -> Picture:
        return noisy(Image.new("RGB", one.size, colour), np.random.default_rng(k), amount)

    return change


def blurred(radius: float) -> Callable[[Picture, int], Picture]:
    def change(one: Picture, k: int) -> Picture:
        return noisy(one.filter(ImageFilter.GaussianBlur(radius)), np.random.default_rng(k), 2)

    return change


def lit(factor: float) -> Callable[[Picture, int], Picture]:
    return lambda one, k: one.point(lambda v: v * factor)


def rolled(down: int, right: int) -> Callable[[Picture, int], Picture]:
    return lambda one, k: Image.fromarray(np.roll(np.asarray(one), (down, right), (0, 1)))


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_camera_as_it_was_is_left_in_peace_and_one_off_or_covered_is_said(product):
    assert shown(product, lambda one, k: one, 40) == set()
    assert shown(product, lit(1.05)) == set()  # that is drift
    assert shown(product, lit(0.95)) == set()

    assert reference(product).is_still is STILL[product]
    assert shown(product, flat((0, 0, 0), 0)) == {"dark"}
    assert shown(product, flat((2, 2, 3), 1)) == {"dark"}
    assert shown(product, flat((90, 70, 60), 2)) == {"covered"}
    assert shown(product, flat((255, 255, 255), 0)) == {"covered"}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("radius", [2, 4])
def test_a_camera_out_of_focus_is_said(product, radius):
    """A texture finer than the blur is gone: then nearly nothing is shown."""
    found = shown(product, blurred(radius))
    assert found == {"blurred"} or (product == "fabric" and found == {"covered"})


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("by", [(10, 0), (-8, 8)])
def test_a_camera_that_moved_is_said_where_anything_stays_in_place(product, by):
    assert shown(product, rolled(*by)) == ({"moved"} if STILL[product] else set())


@pytest.mark.parametrize("product", ["plate", "fabric"])
def test_defects_are_no_matter_of_the_camera(product):
    watch, seen = CameraCheck(reference(product)), set()
    for k in range(30):
        defect = CATEGORIES[product].defects[k % len(CATEGORIES[product].defects)]
        drawn = draw_picture(product, np.random.default_rng([37, k]), defect, size=SIZE)[0]
        watch.add(measure_picture(Image.fromarray(drawn)), float(k), good=False)
        seen |= set(watch.faults)
    assert seen == set()


def test_a_single_picture_says_nothing_and_good_ones_end_it():
    good, black = (
        [measure_picture(one) for one in pictures("plate", 1000, 12)],
        measure_picture(Image.new("RGB", (SIZE, SIZE))),
    )
    watch = CameraCheck(reference("plate"))
    for k in range(40):
        watch.add(black if k % camera.PICTURES_IN_ROW else good[k % 12], float(k), good=True)
        assert watch.faults == {}
    for _ in range(camera.PICTURES_IN_ROW):
        watch.add(black, 50.0, good=False)
    assert set(watch.faults) == {"dark"}
    for k in range(camera.PICTURES_IN_ROW - 1):
        watch.add(good[k], 60.0, good=True)
    assert set(watch.faults) == {"dark"}
    watch.add(good[5], 60.0, good=True)
    assert watch.faults == {}


def test_the_same_picture_again_and_again_is_a_frozen_camera():
    good = [measure_picture(one) for one in pictures("plate", 1000, 12)]
    watch = CameraCheck(reference("plate"))
    for k in range(camera.FROZEN_PICTURES):
        watch.add(good[0], 0.1 * k, good=True)
    assert watch.faults == {}  # so quickly somebody tries something
    watch.add(good[0], camera.FROZEN_SECONDS, good=True)
    assert set(watch.faults) == {"frozen"}
    watch.add(good[1], camera.FROZEN_SECONDS + 1, good=True)
    assert watch.faults == {}


def test_the_reference_is_made_of_good_pictures():
    watch = CameraCheck()
    black = measure_picture(Image.new("RGB", (SIZE, SIZE)))
    for k, one in enumerate(pictures("gears", 0, camera.REFERENCE)):
        assert watch.reference is None
        watch.add(black, 3.0 * k, good=True)  # shows nothing
        watch.add(measure_picture(one), 3.0 * k + 1, good=True)
        watch.add(measure_picture(one), 3.0 * k + 2, good=False)  # was flagged
    assert watch.reference.least.brightness == reference("gears").least.brightness
    assert (watch.reference.mean == reference("gears").mean).all()


def test_before_there_is_a_reference_the_training_pictures_tell():
    watch, gone = CameraCheck(), (0.0, 0.0, 0.0, -3.0, -2.0, -5.0)
    flat_one = measure_picture(flat((90, 70, 60), 2)(Image.new("RGB", (SIZE, SIZE)), 1))
    for k in range(camera.PICTURES_IN_ROW):
        watch.add(flat_one, float(k), good=True, shifts=gone)
    assert set(watch.faults) == {"covered"}
    assert watch.first_pictures == []


def looked(picture: Picture, kind: str, levels: Levels | None = None) -> PictureMeasurements:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    with Image.open(io.BytesIO(buffer.getvalue())) as opened:
        return measure_picture(opened, levels)


def test_any_picture_can_be_looked_at():
    large = pictures("plate", 0, 1)[0].resize((3000, 2000))
    for kind in ("JPEG", "PNG"):  # reduced while it is decoded, and after it
        found = looked(large, kind)
        assert found.small.shape == (85, 128)
        assert found.brightness == pytest.approx(
            measure_picture(pictures("plate", 0, 1)[0]).brightness, abs=0.02
        )
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    assert looked(Image.fromarray(grey), "PNG").brightness == pytest.approx(grey.mean() / 65535, abs=0.01)
    for mode, size in (("1", (40, 30)), ("P", (20, 20)), ("RGBA", (9, 9)), ("CMYK", (30, 30)), ("L", (1, 1))):
        found = measure_picture(Image.new(mode, size))
        assert np.isfinite([found.brightness, found.contrast, found.detail, found.sharpness]).all()


def test_large_pictures_of_any_depth_can_be_looked_at():
    """Pillow makes neither palettes smaller, nor 1 bit, nor 16."""
    rng = np.random.default_rng(2)
    values = np.repeat(np.repeat(rng.integers(20, 220, (55, 55)), 40, 0), 40, 1).astype(np.uint8)
    grey = Image.fromarray(values)
    known = looked(grey, "PNG")
    assert known.brightness == pytest.approx(values.mean() / 255, abs=0.005)
    same = {
        "16 bits": (Image.fromarray(values.astype(np.uint16) * 257), "PNG"),
        "16 bits, TIFF": (Image.fromarray(values.astype(np.uint16) * 257), "TIFF"),
        "floats of 0..1": (Image.fromarray(values.astype(np.float32) / 255), "TIFF"),
        "32 bits": (Image.fromarray(values.astype(np.int32) * 257), "TIFF"),
        "palette": (grey.convert("P"), "PNG"),
    }
    for name, (picture, kind) in same.items():
        found = looked(picture, kind)
        assert found.small.shape == known.small.shape
        assert found.brightness == pytest.approx(known.brightness, abs=0.005), name
        assert found.sharpness == pytest.approx(known.sharpness, abs=0.05), name
    bits = looked(grey.convert("1", dither=Image.Dither.NONE), "PNG")
    assert bits.brightness == pytest.approx((values > 127).mean(), abs=0.01)


@pytest.mark.parametrize("side", [60, 2200])
def test_deep_pictures_are_as_bright_as_their_white_level_says(side):
    """A camera of 12 bits in files of 16, and floats of a scale of their own; what is above is white."""
    values = np.random.default_rng(3).integers(300, 2500, (side, side))
    twelve = Image.fromarray(values.astype(np.uint16))
    assert looked(twelve, "PNG", Levels(0, 4095)).brightness == pytest.approx(values.mean() / 4095, abs=0.01)
    assert looked(twelve, "PNG").brightness == pytest.approx(values.mean() / 65535, abs=0.01)
    floats = Image.fromarray((values / 4095 * 3).astype(np.float32))
    assert looked(floats, "TIFF", Levels(0, 3)).brightness == pytest.approx(values.mean() / 4095, abs=0.01)
    assert looked(twelve, "PNG", Levels(0, 255)).white == 1
    eight = Image.fromarray((values // 16).astype(np.uint8))
    assert looked(eight, "PNG", Levels(0, 4095)).brightness == looked(eight, "PNG").brightness, (
        "8 bits have their own"
    )
