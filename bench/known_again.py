"""Is the promised false-alarm rate kept where new good pictures show parts that the model knows?

    python bench/known_again.py

Each draw is a model of other drawn plates, in two pictures each, named by part. Lives: `fit`; `copies`,
calibrated on fresh parts and on training pictures saved anew (JPEG, scaled, cropped by 2 %); `further`, on
fresh parts and on further pictures of known ones; `update`, extended by such pictures as a fair sample;
`drawn`, with the line's pictures in the calibration, some of them copies; `export`, in 16 bits, calibrated
on fresh parts and on copies, where OpenVINO and the processor have them. `lost_*`: parts that lie aside, of
which a fifth of the line is not found, for a calibration and for drawn pictures. `parts_*`: the same of parts
in two views, lost in one of them, already among those learnt from; `parts_joint` with a model for each view.
`kinds`: how often the answer for a new defect lacks its true kind, where each example is among those learnt
from twice, saved anew; the rate is a limit.
`alarms` of `new` good parts beside the rate that is `expected`, means over the draws; `band`: where 95 % of
such means lie.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import common

SIDE, PARTS, FRESH, KNOWN = 80, 24, 20, 12
NETWORK = {
    "backbone": "test_efficientnet",
    "weights": str(common.ROOT / "tests/fixtures/small_network.safetensors"),
}
QUICK = {"size": "64", "augment": "none", "check": False, "samples": 0, "device": "cpu", **NETWORK}
KINDS = ("scratch", "stain", "missing_part", "misprint", "contamination")
KIND_SIDE, KIND_EXAMPLES, FIRST_NEW_DEFECT = 160, 90, 1000
LOST_EACH = 5  # of so many pictures of the line one is not found
Pixels = NDArray[np.uint8]


def plate(draw: int, part: int, picture: int) -> Pixels:
    """One picture of a drawn plate, with a light and noise of its own."""
    from flawscope.synthesis.demo import plate as drawn
    from flawscope.synthesis.demo import scene

    canvas = drawn.render(SIDE, np.random.default_rng([7, draw, part]), None)
    return scene.simulate_sensor(canvas, np.random.default_rng([9, draw, part, picture]))


def block(draw: int, number: int, turned: bool) -> Pixels:
    """A part that lies aside with a surface of its own; a turned one is not found."""
    rng = np.random.default_rng([3, draw, number])
    y, x = np.mgrid[:100, :100] - 50.0
    down, right = rng.integers(-8, 9, 2)
    y, x = y - down, x - right
    across, along = (y, x) if turned else (x, y)
    surface = Image.fromarray(rng.normal(0, 12, (25, 25)).astype(np.float32))
    fine = np.asarray(surface.resize((100, 100), Image.Resampling.BICUBIC))
    picture = np.full((100, 100, 3), 190.0)
    shape = (abs(across) < 11) & (abs(along) < 24)
    picture[shape] = np.array((80, 100, 130)) + fine[shape][:, None]
    picture[shape & (along > 10) & (abs(across) < 4)] = (230, 200, 40)
    return (picture + rng.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8)


def saved_anew(picture: Pixels, how: int) -> Pixels:
    """The picture as people save it again: as JPEG, scaled, or cropped by 2 %."""
    image, edge = Image.fromarray(picture), max(1, round(0.01 * SIDE))  # at each side
    if how == 0:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        return np.asarray(Image.open(file).convert("RGB"))
    if how == 1:
        return np.asarray(image.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC))
    return picture[edge:-edge, edge:-edge]


def save(folder: Path, pictures: dict[str, Pixels]) -> list[str]:
    folder.mkdir(parents=True)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / name)
    return [str(folder / name) for name in pictures]


def reviewed(files: Sequence[str | Pixels]) -> list[Any]:
    from flawscope.fitting.update_evaluation import ReviewedPicture

    names = [Path(one).name if isinstance(one, str) else f"{k}" for k, one in enumerate(files)]
    return [ReviewedPicture(k, one, True, names[k], drawn=True) for k, one in enumerate(files)]


def alarms(model: Any, predictions: Sequence[Any]) -> dict[str, Any]:
    """What a model promises, and how many of these good parts it calls anomalous."""
    lost = [any(finding.decides for finding in found.findings) for found in predictions]
    above = model.calibration.is_anomalous([found.score for found in predictions])
    called = int(np.count_nonzero(above | np.array(lost)))
    return {
        "expected": model.calibration.expected_rate,
        "alarms": called,
        "units": model.calibration.unit_count,
    }


def known_parts(work: Path, draw: int, new: int) -> dict[str, Any]:
    import flawscope
    from flawscope.export.export import export as flawscope_export
    from flawscope.fitting.incremental_update import extend, update

    folder = work / f"plates-{draw}"
    learnt = save(
        folder / "learnt", {f"{p:03d}_{k}.png": plate(draw, p, k) for p in range(PARTS) for k in (0, 1)}
    )
    fresh = save(folder / "fresh", {f"{p:03d}_0.png": plate(draw, p, 0) for p in range(100, 100 + FRESH)})
    anew = {f"again {p}.png": saved_anew(plate(draw, p, 0), p % 3) for p in range(KNOWN)}
    copies = save(folder / "copies", anew)
    further = save(folder / "further", {f"{p:03d}_2.png": plate(draw, p, 2) for p in range(KNOWN, 2 * KNOWN)})
    shown = [plate(draw, p, 0) for p in range(200, 200 + new)]
    model = flawscope.fit(learnt, group=r"^(\d+)_", force=True, **QUICK | {"samples": 1})
    drawn = update(
        model.artefact, model, reviewed([*fresh, *copies]), check=False, device="cpu", force=True
    ).predictor
    lives = {
        "fit": model,
        "copies": model.calibrate([*fresh, *copies], force=True),
        "further": model.calibrate([*fresh, *further], force=True),
        "drawn": drawn,
    }
    found = model.predict(shown)
    told = {name: alarms(one, found) for name, one in lives.items()}
    extended = extend(model, [*fresh, *further], fair=True, check=False, device="cpu", force=True)
    told["update"] = alarms(extended, extended.predict(shown))
    with suppress(flawscope.InputError):  # this machine has no such numbers
        flawscope_export(model.artefact, folder / "bf16.onnx", precision="bf16", pictures=[*fresh, *copies])
        exported = flawscope.load(folder / "bf16.onnx")
        told["export"] = alarms(exported, exported.predict(shown))
    return told


def lost_parts(work: Path, draw: int, new: int) -> dict[str, Any]:
    import flawscope
    from flawscope.fitting.incremental_update import update

    model = flawscope.fit([block(draw, k, False) for k in range(PARTS)], align="shift", force=True, **QUICK)
    line = [block(draw, 100 + k, k % LOST_EACH == 0) for k in range(FRESH + PARTS // 2)]
    found = model.predict([block(draw, 500 + k, k % LOST_EACH == 0) for k in range(new)])
    drawn = update(model.artefact, model, reviewed(line), check=False, device="cpu", force=True).predictor
    calibrated = model.calibrate(line, force=True)
    return {"lost_calibrate": alarms(calibrated, found), "lost_drawn": alarms(drawn, found)}


def lost_views(work: Path, draw: int, new: int) -> dict[str, Any]:
    import flawscope
    from flawscope.fitting.incremental_update import update

    def views(first: int, count: int) -> dict[str, Pixels]:
        """Pictures of so many parts in two views, by name; each fifth part is lost in the second."""
        shown = dict[str, Pixels]()
        for k in range(first, first + count):
            shown[f"{k:03d}_a.png"] = block(draw, 2 * k, False)
            shown[f"{k:03d}_b.png"] = block(draw, 2 * k + 1, k % LOST_EACH == 0)[..., ::-1]
        return shown

    def called(model: Any, pictures: dict[str, Pixels], found: Sequence[Any]) -> dict[str, Any]:
        parts, collector = dict[str, dict[str, Any]](), model.parts()
        for name, one in zip(pictures, found, strict=True):
            parts.setdefault(name[:3], {})[name[4]] = one
        decided = [collector.decide(part, shown) for part, shown in parts.items()]
        known = collector.calibration
        return {
            "expected": known.expected_rate,
            "alarms": sum(one.is_anomalous for one in decided),
            "units": known.complete_count,
        }

    pattern = {"part": r"^(\d+)_", "view": r"_([ab])\."}
    learnt, line, shown = views(0, PARTS + PARTS // 4), views(100, FRESH + PARTS // 2), views(500, new)
    files = save(work / f"views-{draw}", line)
    how = QUICK | {"align": "shift", "force": True}
    model = flawscope.fit([*learnt.values()], names=[*learnt], **pattern, **how)
    found = model.predict([*shown.values()])
    drawn = update(model.artefact, model, reviewed(files), check=False, device="cpu", force=True).predictor
    calibrated = model.calibrate(files, force=True)
    of_view = {
        view: {name: picture for name, picture in learnt.items() if name[4] == view} for view in ("a", "b")
    }
    models = {
        view: flawscope.fit([*of.values()], names=[*of], group=r"^(\d+)_", **how)
        for view, of in of_view.items()
    }
    joint = flawscope.join(models, **pattern)
    by_view = [joint.predict(picture, product=name[4]) for name, picture in shown.items()]
    return {
        "parts_fit": called(model, shown, found),
        "parts_calibrate": called(calibrated, shown, found),
        "parts_drawn": called(drawn, shown, found),
        "parts_joint": called(joint, shown, by_view),
    }


def named_kinds(work: Path, draw: int, new: int) -> dict[str, Any]:
    """How often the answer for a new defect's strongest region lacks its true kind. Each example is among
    those learnt from twice: as it is, and saved anew."""
    import flawscope
    from flawscope.predictor.kinds import Example, learn_kinds
    from flawscope.synthesis.demo.dataset import draw_picture

    def defective(number: int) -> tuple[Pixels, str]:
        kind = KINDS[number % len(KINDS)]
        rng = np.random.default_rng([5, draw, number])
        return draw_picture("plate", rng, kind, 0.0, size=KIND_SIDE)[0], kind

    rng = np.random.default_rng([11, draw])
    good = [draw_picture("plate", rng, size=KIND_SIDE)[0] for _ in range(PARTS)]
    model = flawscope.fit(good, force=True, **QUICK | {"size": "128"})
    examples = list[Example]()
    for number in range(KIND_EXAMPLES):
        picture, kind = defective(number)
        examples.append(Example(picture, kind))
        examples.append(Example(saved_anew(picture, number // len(KINDS) % 3), kind))
    taught = learn_kinds(model, examples).model
    kinds = taught.manifest.kinds
    known = set(kinds.names)
    lacking = answered = 0
    number = FIRST_NEW_DEFECT
    while answered < new:
        picture, kind = defective(number)
        number += 1
        found = taught.predict(picture)
        if kind not in known or not found.regions:
            continue
        answered += 1
        lacking += kind not in found.regions[0].kinds
    told = {"expected": kinds.effective_error, "alarms": lacking, "units": len(kinds.distances)}
    return {"kinds": told}


def summary(cells: Sequence[dict[str, Any]], life: str, new: int) -> dict[str, Any]:
    """Means over the draws, and the band around what is expected: of the models' own rates, which lie as a
    beta distribution, and of the parts tested."""
    every = [cell[life] for cell in cells]
    expected = float(np.mean([one["expected"] for one in every]))
    units = float(np.mean([one["units"] for one in every]))
    of_models, of_parts = expected * (1 - expected) / (units + 2), expected * (1 - expected) / new
    reach = 1.96 * math.sqrt((of_models + of_parts) / len(every))
    rate = sum(one["alarms"] for one in every) / (new * len(every))
    return {
        "life": life, "draws": len(every), "units": round(units, 1), "expected": round(expected, 4),
        "measured": round(rate, 4),
        "band": [round(max(0.0, expected - reach), 4), round(expected + reach, 4)],
        "highest": max(one["alarms"] for one in every) / new,
    }  # fmt: skip


def main() -> int:
    parser = common.make_parser(__doc__, "known_again", data=False)
    parser.add_argument("--draws", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="draw to begin with (default: %(default)s)")
    parser.add_argument("--new", type=int, default=120, help="new good parts a draw (default: %(default)s)")
    parser.add_argument("--parts", default="known,lost,parts,kinds", help="default: %(default)s")
    args = common.parse_arguments(parser, draws=1, new=6)
    from flawscope.methods.threads import set_thread_count

    set_thread_count(args.threads)
    record = common.Record(args, "promised rates where new pictures show known parts, or parts are lost")
    with common.workspace(args.work) as work:
        works: dict[str, Callable[[Path, int, int], dict[str, Any]]]
        works = {"known": known_parts, "lost": lost_parts, "parts": lost_views, "kinds": named_kinds}
        for name in args.parts.split(","):
            function = works[name]
            for draw in range(args.first, args.draws):
                record.cell(f"{name}/{draw}", partial(function, work, draw, args.new))
            cells = [record.cells[f"{name}/{draw}"] for draw in range(args.first, args.draws)]
            lives = [life for life in cells[0] if life != "_"]
            common.print_table(name, [summary(cells, life, args.new) for life in lives])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
