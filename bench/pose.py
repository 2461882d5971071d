"""Is the pose of a part found, and how long does it take?

    python bench/pose.py

Parts are drawn at any place and angle, with known poses: plates (the demo's, smaller), discs with one mark,
long pins with a head; on plain and on textured ground. A reference is learnt from --counts good pictures, and
the pose is found in --pictures new good ones and in half as many defective ones: a scratch, or a piece that
is missing. Nobody says which place and angle the part has in the reference: both are the median of all. An
angle is right within 1 degree, a place within 1 % of the side. Beside it stand two other ways to find
a pose: the moments of the foreground, and phase correlation of log-polar spectra with the first good picture.

The time is that of one picture of 512 x 512 pixels for a network of 256, in one thread, with and without the
pose.

With --accuracy PatchCore is fitted on such parts with `--align turn`, at 256 pixels, and judges --pictures
new good ones and as many defective ones: image AUROC, p-values of the good ones, parts not found.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import common
from common import Cell

PARTS, GROUNDS = ("plate", "disc", "pin"), ("plain", "textured")
UNITS, MARGIN = 320, 4  # of a side; least distance of a part from the edge
REACH = {"plate": 112.0, "disc": 60.0, "pin": 106.0}  # units from the middle to the farthest point
PLATE = 0.6  # units of the picture in one of the plate's
DEGREES, SHARE = 1.0, 0.01
MISSING = 0.045  # radius of the missing piece, as a share of the side
Known = tuple[float, float, float]  # x and y as shares of the side, angle


def draw(part: str, ground: str, size: int, seed: int, defect: str | None = None) -> tuple[Any, Known]:
    """[size, size, 3] uint8, and where the part lies."""
    import numpy as np

    from flawscope.synthesis.demo import scene
    from flawscope.synthesis.masks import fractal_noise

    rng = np.random.default_rng(seed)
    room = UNITS / 2 - REACH[part] - MARGIN
    frame = scene.place(size, rng, shift=room, degrees=180)
    u, v, scale = frame.u, frame.v, frame.scale
    rough = (3, 4.0, 70.0) if ground == "plain" else (16, 28.0, 100.0)
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = (rough[2] + rough[1] * fractal_noise((size, size), (rough[0],) * 2, rng, octaves=4))[
        ..., None
    ]
    edge, face = {"plate": plate, "disc": disc, "pin": pin}[part](u, v, scale, rng)
    cover = scene.cover(edge, scale)
    if defect == "scratch":
        scene.draw_scratch(face, edge < -3, scene.Flaw("scratch", 0.0, rng), scale)
    elif defect == "missing":
        rim = np.argwhere(np.abs(edge) < 1)
        row, column = rim[rng.integers(len(rim))]
        y, x = np.mgrid[:size, :size]
        cover = cover * (np.hypot(y - row, x - column) > MISSING * size)
    canvas *= (1 - 0.3 * scene.smooth(1 - (edge - 2) / 10))[..., None]
    scene.lay(canvas, face, cover)
    return scene.sensor(canvas, rng), (*(at / UNITS + 0.5 for at in frame.shift), frame.angle)


def plate(u: Any, v: Any, scale: float, rng: Any) -> tuple[Any, Any]:
    """Distance from the outline [H, W], in units, and face [H, W, 3] of a drawn plate."""
    import numpy as np
    from scipy import ndimage

    from flawscope.synthesis.demo import scene
    from flawscope.synthesis.demo.dataset import draw_picture

    size, seed = 320, int(rng.integers(2**31))
    picture, _ = draw_picture("plate", np.random.default_rng(seed), size=size)
    # as draw_picture and plate.render draw them
    drawn = np.random.default_rng(int(np.random.default_rng(seed).integers(2**63, size=3)[0]))
    frame = scene.place(size, drawn, shift=4, degrees=2)
    across, down = u / PLATE, v / PLATE
    row, column = frame.pixel(0, 0)
    cos, sin = math.cos(frame.angle) * frame.scale, math.sin(frame.angle) * frame.scale
    at = row + sin * across + cos * down - 0.5, column + cos * across - sin * down - 0.5
    planes = [ndimage.map_coordinates(picture[..., k].astype(np.float32), at, order=1) for k in range(3)]
    return scene.rounded_box(across, down, (141.0, 120.0), 16.0) * PLATE, np.stack(planes, -1)


def disc(u: Any, v: Any, scale: float, rng: Any) -> tuple[Any, Any]:
    """A turned disc with one mark, as `plate`."""
    import numpy as np
    from scipy import ndimage

    from flawscope.synthesis.demo import scene

    grain = ndimage.gaussian_filter(rng.standard_normal(u.shape).astype(np.float32), 1)
    radius = np.hypot(u, v)
    face = np.repeat((165 + 8 * grain + 10 * np.cos(radius / 4))[..., None], 3, 2)
    scene.lay(face, np.array((40.0, 50.0, 60.0)), scene.cover(scene.rounded_box(u - 34, v, (9, 5), 2), scale))
    return radius - 58, face


def pin(u: Any, v: Any, scale: float, rng: Any) -> tuple[Any, Any]:
    """A long thin pin with a head, as `plate`."""
    import numpy as np
    from scipy import ndimage

    from flawscope.synthesis.demo import scene

    grain = ndimage.gaussian_filter(rng.standard_normal(u.shape).astype(np.float32), 1)
    face = np.repeat((150 + 60 * np.cos(v / 8) + 4 * grain)[..., None], 3, 2).astype(np.float32)
    shaft, head = scene.rounded_box(u, v, (104, 8), 4), scene.rounded_box(u - 94, v, (10, 15), 3)
    return np.minimum(shaft, head), face


# ------------------------------------------------------------------------------------ other ways, and errors


def by_moments(picture: Any) -> Known:
    """Middle and long axis of the foreground, its heavier end forward."""
    import numpy as np

    from flawscope.synthesis.foreground import foreground_mask

    y, x = np.nonzero(foreground_mask(picture)) + np.array([[0.5], [0.5]])
    middle = np.array([x.mean(), y.mean()])
    away = np.stack([x, y]) - middle[:, None]
    axis = np.linalg.eigh(away @ away.T)[1][:, 1]
    axis *= 1 if ((axis @ away) ** 3).mean() > 0 else -1
    return (*(middle / len(picture)), math.atan2(axis[1], axis[0]))


def by_log_polar(picture: Any, first: Any) -> Known:
    """Angle to the first picture by phase correlation of log-polar spectra, then the place (Reddy and
    Chatterji, An FFT-Based Technique for Image Registration, IEEE TIP 5, 1996)."""
    import numpy as np
    from scipy import ndimage

    from flawscope.pictures.resampling import grey

    side, angles, radii = 128, 360, 64
    window = np.outer(np.hanning(side), np.hanning(side))
    turn = np.pi * np.arange(angles)[:, None] / angles
    radius = 2 * (side / 4) ** (np.arange(radii) / radii)
    at = side / 2 + radius * np.sin(turn), side / 2 + radius * np.cos(turn)

    def polar(image: Any) -> Any:
        spectrum = np.fft.fftshift(np.log1p(np.abs(np.fft.fft2((image - image.mean()) * window))))
        return ndimage.map_coordinates(spectrum, at, order=1)

    def correlated(a: Any, b: Any) -> Any:
        both = np.fft.fft2(a) * np.conj(np.fft.fft2(b))
        return np.real(np.fft.ifft2(both / (np.abs(both) + 1e-9)))

    image, known = grey(picture), grey(first)
    row, _ = np.unravel_index(correlated(polar(image), polar(known)).argmax(), (angles, radii))
    best = (-math.inf, (0.0, 0.0, 0.0))
    for angle in (math.pi * row / angles, math.pi * row / angles + math.pi):
        cos, sin, middle = math.cos(angle), math.sin(angle), np.full(2, (side - 1) / 2)
        back = np.array([[cos, -sin], [sin, cos]])
        turned = ndimage.affine_transform(known, back, middle - back @ middle, order=1, mode="nearest")
        found = correlated(image - image.mean(), turned - turned.mean())
        y, x = np.unravel_index(found.argmax(), found.shape)
        shift = [(at + side / 2) % side - side / 2 for at in (x, y)]
        best = max(best, (found.max(), (0.5 + shift[0] / side, 0.5 + shift[1] / side, angle)))
    return best[1]


def errors(found: list[Known], known: list[Known]) -> tuple[Any, Any]:
    """Errors of the angle in degrees, of the place as a share of the side."""
    import numpy as np

    turned = np.exp(1j * np.array([f[2] - k[2] for f, k in zip(found, known, strict=True)]))
    near = np.abs(np.angle(turned[:, None] / turned)) < math.radians(2)
    angles = np.angle(turned / turned[near.sum(0).argmax()])
    own = np.array([complex(f[0] - k[0], f[1] - k[1]) for f, k in zip(found, known, strict=True)])
    own *= np.exp(-1j * np.array([k[2] for k in known]))
    places = np.abs(own - np.median(own.real) - 1j * np.median(own.imag))
    return np.degrees(np.abs(angles - np.median(angles))), places


def rated(found: list[Known], known: list[Known], good: int) -> Cell:
    """Shares of right poses, of good and of defective parts, and the errors of the good ones."""
    import numpy as np

    angles, places = errors(found, known)
    right = (angles <= DEGREES) & (places <= SHARE)
    return {
        "good": [int(right[:good].sum()), good],
        "defective": [int(right[good:].sum()), len(right) - good],
        "degrees": [common.sig(float(q), 3) for q in np.quantile(angles[:good], (0.5, 0.99))],
        "share": [common.sig(float(q), 3) for q in np.quantile(places[:good], (0.5, 0.99))],
    }


def measure(part: str, ground: str, count: int, pictures: int, size: int) -> Cell:
    """One kind of part on one ground, with so many learnt."""
    import numpy as np

    from flawscope.pictures.congealing import learn
    from flawscope.pictures.pose import SIDE
    from flawscope.pictures.resampling import grey

    learnt = [draw(part, ground, size, seed)[0] for seed in range(count)]
    new = [draw(part, ground, size, 10_000 + seed) for seed in range(pictures)]
    kinds = ("scratch", "missing")
    new += [draw(part, ground, size, 20_000 + seed, kinds[seed % 2]) for seed in range(pictures // 2)]
    made: list[Any] = []
    took = common.seconds(lambda: made.append(learn([grey(one) for one in learnt], "turn")))
    reference, known = made[0], [one for _, one in new]
    poses = [reference.find(grey(one)) for one, _ in new]
    found = [(pose.x / SIDE, pose.y / SIDE, pose.angle) for pose in poses]
    p_values = [reference.p_value(pose.error) for pose in poses[:pictures]]
    return {
        "learning_seconds": common.sig(took, 3),
        "period": reference.period,
        "lost": [sum(not pose.found for pose in some) for some in (poses[:pictures], poses[pictures:])],
        "p_below_5_percent": common.sig(float(np.mean(np.array(p_values) <= 0.05)), 3),
        "found": rated(found, known, pictures),
        "moments": rated([by_moments(one) for one, _ in new], known, pictures),
        "log-polar": rated([by_log_polar(one, learnt[0]) for one, _ in new], known, pictures),
    }


def accuracy(part: str, ground: str, count: int, pictures: int, size: int) -> Cell:
    """PatchCore on aligned parts of one kind on one ground, with so many learnt."""
    import numpy as np
    import torch

    import flawscope
    from flawscope.metrics import auroc

    torch.set_num_threads(1)
    kinds = ("scratch", "missing")
    learnt = [draw(part, ground, size, 30_000 + seed)[0] for seed in range(count)]
    new = [draw(part, ground, size, 40_000 + seed)[0] for seed in range(pictures)]
    new += [draw(part, ground, size, 50_000 + seed, kinds[seed % 2])[0] for seed in range(pictures)]
    labels = np.arange(len(new)) >= pictures
    model = flawscope.fit(learnt, size=size, align="turn", device="cpu")
    found = list(model.predict(new))
    scores = np.array([one.score for one in found])
    p_values = np.array([one.p_value for one in found])[:pictures]
    lost = np.array([one.part_found is False for one in found])
    scratched = np.arange(pictures) % 2 == 0

    def apart(kind: Any) -> float:
        rows = np.concatenate([np.arange(pictures), pictures + np.flatnonzero(kind)])
        return common.sig(auroc(labels[rows], scores[rows]), 4)

    return {
        "auroc": common.sig(auroc(labels, scores), 4),
        "auroc_by_defect": {"scratch": apart(scratched), "missing": apart(~scratched)},
        "p_mean": common.sig(float(p_values.mean()), 3),
        "p_below_5_percent": common.sig(float((p_values <= 0.05).mean()), 3),
        "lost": [int(lost[~labels].sum()), int(lost[labels].sum())],
    }


def latency(repeats: int) -> Cell:
    """Milliseconds of the views of a plate, with and without its pose, alternating."""
    from flawscope.pictures.congealing import learn
    from flawscope.pictures.preprocess import Preprocess
    from flawscope.pictures.resampling import grey

    pictures = [draw("plate", "textured", 512, seed)[0] for seed in range(12)]
    plain = Preprocess((256, 256))
    aligned = Preprocess((256, 256), reference=learn([grey(one) for one in pictures], "turn"))
    turn = iter(range(10**9))
    works = {
        "without": lambda: plain(pictures[next(turn) % 12]),
        "with": lambda: aligned(pictures[next(turn) % 12]),
    }
    times = common.rounds(works, repeats, warm=12)
    kept = {name: 1e3 * min(values) for name, values in times.items()}
    middle = {name: 1e3 * sorted(values)[len(values) // 2] for name, values in times.items()}
    return {
        "least_ms": {name: common.sig(value, 3) for name, value in kept.items()},
        "median_ms": {name: common.sig(value, 3) for name, value in middle.items()},
        "added_ms": common.sig(kept["with"] - kept["without"], 3),
    }


def main() -> int:
    parser = common.parser(__doc__, "pose", data=False)
    parser.add_argument("--counts", default="20,120", help="good pictures learnt from (default: %(default)s)")
    parser.add_argument("--pictures", type=int, help="new good pictures (default: 100)")
    parser.add_argument("--accuracy", action="store_true", help="PatchCore on aligned parts, and no poses")
    args = common.arguments(parser, counts="8", pictures=2)
    record = common.Record(args, "poses of drawn parts, found by a reference learnt from good pictures")
    rows: list[dict[str, Any]] = []
    for count in map(int, args.counts.split(",")):
        for part in PARTS[: 1 if args.quick else None]:
            for ground in GROUNDS[: 1 if args.quick else None]:
                given = {"part": part, "ground": ground, "count": count, "size": 256}
                given["pictures"] = args.pictures or 100
                if args.accuracy:
                    work = lambda g=given: common.task(accuracy, **g).json  # noqa: E731
                    if cell := record.attempt(f"accuracy/{part}/{ground}/{count}", work):
                        rows.append({"part": part, "ground": ground, "learnt": count, "auroc": cell["auroc"]})
                    continue
                work = lambda g=given: common.task(measure, **g).json  # noqa: E731
                if cell := record.attempt(f"{part}/{ground}/{count}", work):
                    of = {
                        way: "/".join(map(str, cell[way]["good"]))
                        for way in ("found", "moments", "log-polar")
                    }
                    broken = "/".join(map(str, cell["found"]["defective"]))
                    rows.append({"part": part, "ground": ground, "learnt": count, **of, "defective": broken})
    if args.accuracy:
        common.table("image AUROC of PatchCore, parts aligned", rows)
        return record.status()
    common.table("poses within 1 degree and 1 % of the side", rows)
    took = record.attempt("latency", lambda: common.task(latency, repeats=3 if args.quick else 60).json)
    if took:
        common.table(
            "milliseconds, one picture of 512 px, one thread",
            [took["least_ms"] | {"added": took["added_ms"]}],
        )
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
