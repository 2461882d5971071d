"""Are all parts of a picture found and counted, and how long does it take?

    python bench/several_parts.py

3 to 12 parts are drawn in a picture at any place and angle, none over another: plates, discs with one mark,
long pins with a head, on plain and on textured ground (bench/pose.py). The reference is learnt from --learnt
good pictures, which nobody marks. Parts are found in --pictures new ones: good ones, and as many each with a
part too few, with one too many, and with another kind of part added. A part is found where a pose lies within
2 % of the side. Angles are right within 2 degrees, but for one common turn. The time is that of one picture.

    python bench/several_parts.py --fitted

fits PatchCore on such pictures instead, and judges new ones, which it has not learnt from: good ones, ones
with a simulated defect on one part, and as above. A picture counts as reported where it is anomalous and the
reason says so.
"""

from __future__ import annotations

import math
import statistics
import sys
from typing import Any

import common
from common import Cell
from pose import GROUNDS, PARTS, REACH, disc, pin, plate

RADIUS = {"plate": 56.0, "disc": 42.0, "pin": 62.0}  # pixels from the middle to the farthest point
OTHER = {"plate": "disc", "disc": "plate", "pin": "disc"}
SIDE, GAP = 512, 5  # pixels
PLACE, DEGREES = 0.02, 2.0  # share of the side
KINDS = ("good", "missing", "additional", "other")
RATE = 0.1  # of false alarms
Known = tuple[float, float, float]  # x and y in pixels, angle


def draw(part: str, ground: str, count: int, seed: int, other: bool = False) -> tuple[Any, list[Known]]:
    """[SIDE, SIDE, 3] uint8, and where its parts lie. other: one part of another kind is added."""
    import numpy as np
    from scipy import ndimage

    from flawscope.synthesis.demo import scene
    from flawscope.synthesis.masks import fractal_noise

    rng = np.random.default_rng(seed)
    rough = (3, 4.0, 70.0) if ground == "plain" else (16, 28.0, 100.0)
    canvas = np.empty((SIDE, SIDE, 3), np.float32)
    noise = fractal_noise((SIDE, SIDE), (rough[0],) * 2, rng, octaves=4)
    canvas[:] = (rough[2] + rough[1] * noise)[..., None]
    taken = np.zeros((SIDE, SIDE), np.bool_)
    known: list[Known] = []
    for kind in [part] * count + [OTHER[part]] * other:
        radius = RADIUS[kind]
        scale, half = radius / REACH[kind], math.ceil(radius) + 12
        for _ in range(2000):
            x, y = (float(at) for at in rng.uniform(radius + 3, SIDE - radius - 3, 2))
            angle = float(rng.uniform(-math.pi, math.pi))
            top, left = max(0, int(y) - half), max(0, int(x) - half)
            here = np.s_[top : min(SIDE, int(y) + half), left : min(SIDE, int(x) + half)]
            down, across = np.mgrid[here] + 0.5
            across, down = (across - x) / scale, (down - y) / scale
            cos, sin = math.cos(angle), math.sin(angle)
            u, v = (
                (cos * across + sin * down).astype(np.float32),
                (cos * down - sin * across).astype(np.float32),
            )
            inside = outline(kind, u, v) < 0
            if not (taken[here] & ndimage.binary_dilation(inside, iterations=GAP)).any():
                break
        else:
            return draw(part, ground, count, seed + 1_000_000, other)  # no room was left
        edge, face = {"plate": plate, "disc": disc, "pin": pin}[kind](u, v, scale, rng)
        taken[here] |= inside
        canvas[here] *= (1 - 0.3 * scene.smooth(1 - (edge * scale - 1) / 5))[..., None]
        scene.lay(canvas[here], face, scene.cover(edge, scale))
        if kind == part:
            known.append((x, y, angle))
    return scene.sensor(canvas, rng), known


def outline(kind: str, u: Any, v: Any) -> Any:
    """Distance from the outline [H, W], in units."""
    import numpy as np

    from flawscope.synthesis.demo.scene import rounded_box

    if kind == "plate":
        return rounded_box(u / 0.6, v / 0.6, (141.0, 120.0), 16.0)
    if kind == "disc":
        return np.hypot(u, v) - 58
    return np.minimum(rounded_box(u, v, (104, 8), 4), rounded_box(u - 94, v, (10, 15), 3))


def measure(part: str, ground: str, count: int, learnt: int, pictures: int) -> Cell:
    """One kind of part on one ground, so many in a picture."""
    import numpy as np

    from flawscope.pictures.resampling import grey
    from flawscope.pictures.several_learning import Learnt, learn_several
    from flawscope.pictures.several_parts import OVERVIEW

    good = [draw(part, ground, count, seed)[0] for seed in range(learnt)]
    made: list[Learnt] = []
    overviews = [grey(one, 255.0, OVERVIEW) for one in good]
    work = lambda: made.append(learn_several(overviews, lambda i, side: grey(good[i], 255.0, side), "turn"))  # noqa: E731
    cell: Cell = {"learning_seconds": common.sig(common.seconds(work), 3)}
    settings, reference = made[0].settings, made[0].reference
    lost = parts = false = 0
    angles, places, times = list[float](), list[float](), list[float]()
    for number, kind in enumerate(KINDS):
        counted = 0
        for seed in range(pictures):
            shown = count + (kind == "additional") - (kind == "missing")
            picture, known = draw(part, ground, shown, 10_000 * (number + 1) + seed, kind == "other")
            found: list[Any] = []
            small = grey(picture, 255.0, settings.side), grey(picture, 255.0, OVERVIEW)
            times.append(common.seconds(lambda: found.append(settings.find(*small, reference))))  # noqa: B023
            poses, objects = found[0].poses, len(found[0].objects)
            near = set()
            for x, y, angle in known:
                off = [
                    math.hypot(one.x * SIDE / settings.side - x, one.y * SIDE / settings.side - y)
                    for one in poses
                ]
                if off and min(off) <= PLACE * SIDE:
                    near.add(off.index(min(off)))
                    places.append(min(off))
                    angles.append(poses[off.index(min(off))].angle - angle)
            lost, parts = lost + len(known) - len(near), parts + len(known)
            false += len(poses) - len(near)
            counted += len(poses) == shown and objects == (kind == "other")
        cell[kind] = [counted, pictures]
    turns = np.exp(1j * np.array(angles))
    common_turn = turns[(np.abs(np.angle(turns[:, None] / turns)) < math.radians(DEGREES)).sum(0).argmax()]
    off = np.degrees(np.abs(np.angle(turns / common_turn)))
    return cell | {
        "lost": [lost, parts],
        "false": false,
        "wrong_angle": int((off > DEGREES).sum()) if reference.period == 1 else None,
        "degrees": [common.sig(float(q), 3) for q in np.quantile(off, (0.5, 0.99))],
        "pixels": [common.sig(float(q), 3) for q in np.quantile(places, (0.5, 0.99))],
        "finding_ms": common.sig(1e3 * float(np.median(times)), 3),
    }


def defective(part: str, picture: Any, known: list[Known], seed: int) -> Any:
    """The picture with a simulated defect on one of its parts."""
    import numpy as np

    from flawscope.synthesis import DefectScale, simulate_defect

    rng = np.random.default_rng([seed, 7])
    x, y, angle = known[rng.integers(len(known))]
    radius, picture = RADIUS[part], picture.copy()
    half = math.ceil(radius)
    top, left = max(0, round(y) - half), max(0, round(x) - half)
    here = np.s_[top : top + 2 * half, left : left + 2 * half]
    down, across = np.mgrid[: picture[here].shape[0], : picture[here].shape[1]] + 0.5
    across, down = (across + left - x) * REACH[part] / radius, (down + top - y) * REACH[part] / radius
    cos, sin = math.cos(angle), math.sin(angle)
    on_part = outline(part, cos * across + sin * down, cos * down - sin * across) < -3
    picture[here] = simulate_defect(
        np.ascontiguousarray(picture[here]), rng, scale=DefectScale.MEDIUM, foreground=on_part
    ).picture
    return picture


def measure_fitted(part: str, ground: str, count: int, learnt: int, pictures: int, size: int) -> Cell:
    """A model of one kind of part on one ground, so many in a picture."""
    import flawscope

    good = [draw(part, ground, count, seed)[0] for seed in range(learnt)]
    made: list[Any] = []
    work = lambda: made.append(  # noqa: E731
        flawscope.fit(good, align="turn", several=True, size=size, check=False, false_alarm_rate=RATE)
    )
    seconds = common.seconds(work)
    model = made[0]
    known = model.calibration
    cell: Cell = {
        "fit_seconds": common.sig(seconds, 3),
        "expected_rate": common.sig(known.expected_rate, 4),
        "miscounted": known.miscounted,
        "failures": len(model.failures),
    }
    shown = {"new": 0, "defect": 0} | dict.fromkeys(KINDS[1:], 0)
    found = parts = 0
    times = []
    for number, kind in enumerate(shown):
        p_values, told = [], 0
        for seed in range(pictures * (3 if kind == "new" else 1)):
            drawn = count + (kind == "additional") - (kind == "missing")
            picture, at = draw(part, ground, drawn, 50_000 * (number + 1) + seed, kind == "other")
            if kind == "defect":
                picture = defective(part, picture, at, seed)
            judged: list[Any] = []
            times.append(common.seconds(lambda: judged.append(model.predict(picture))))  # noqa: B023
            one = judged[0]
            p_values.append(one.p_value)
            poses = [part.part_pose for part in one.found_parts.parts]
            for x, y, _ in at:
                parts += 1
                found += any(math.hypot(pose.x - x, pose.y - y) <= PLACE * SIDE for pose in poses)
            word = {"missing": "missing", "additional": "too many", "other": "other object"}.get(kind, "")
            told += one.is_anomalous and word in one.remark
        cell[kind] = [told, len(p_values)]
        if kind == "new":
            cell["p_at_most"] = {str(q): sum(p <= q for p in p_values) for q in (0.05, 0.1, 0.2, 0.5)}
    return cell | {
        "lost": [parts - found, parts],
        "predict_ms": common.sig(1e3 * statistics.median(times), 3),
    }


def main() -> int:
    parser = common.parser(__doc__, "several_parts", data=False)
    parser.add_argument("--fitted", action="store_true", help="fit models and judge new pictures")
    parser.add_argument("--size", type=int, default=128, help="that a part is seen at (default: %(default)s)")
    parser.add_argument("--counts", default="3,6,12", help="parts in a picture (default: %(default)s)")
    parser.add_argument("--learnt", type=int, default=20, help="good pictures (default: %(default)s)")
    parser.add_argument("--pictures", type=int, help="new ones of each kind (default: 20)")
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    args = common.arguments(parser, counts="3", learnt=8, pictures=1, parts=PARTS[0])
    record = common.Record(args, "several drawn parts in a picture, found and counted")
    judge = measure_fitted if args.fitted else measure
    rows = []
    for count in map(int, args.counts.split(",")):
        for part in args.parts.split(","):
            for ground in GROUNDS[: 1 if args.quick else None]:
                given = {"part": part, "ground": ground, "count": count, "learnt": args.learnt}
                given["pictures"] = args.pictures or 20
                given |= {"size": args.size} if args.fitted else {}
                work = lambda g=given: common.task(judge, **g).json  # noqa: E731
                if cell := record.attempt(f"{part}/{ground}/{count}", work):
                    shares = {k: "/".join(map(str, v)) for k, v in cell.items() if isinstance(v, list)}
                    rows.append({"part": part, "ground": ground, "parts": count, **shares})
    common.table("parts lost, and pictures in which parts and other objects are counted right", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
