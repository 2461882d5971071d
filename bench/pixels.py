"""What deep colour and several channels are worth.

    python bench/pixels.py

`deep`: dark material of 150 of 4095 in grey or colour of 12 bits, with spots a few per cent brighter, against
the same pictures cut to 8 bits.
`lights`: parts under four lights, [H, W, 4], whose defect shows under one of them alone, in register and with
each light shifted by up to a pixel: each light alone, all as views of one channel, as views of three, and as
files of one part (`--part`, one model for all lights or one for each).
Beside what is found stand the false alarms among new good parts, and what the model promises.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import common
from common import Args, Cell

SEED, SIDE, RATE = 74, 96, 0.05
MATERIAL, WHITE, NOISE = (150, 130, 110), 4095, 0.7  # of 12 bits
CONTRASTS = (0.01, 0.02, 0.04, 0.3)
LIGHTS = 4
WAYS = {
    **{f"light {k + 1} alone": {"light": k} for k in range(LIGHTS)},
    "all": {"channels": "all"},
    "1-3,4": {"channels": "1-3,4"},
    "files, one model": {"part": True},
    "files, each view": {"part": True, "each": True},
}


def material(seed: int, colours: int, contrast: float) -> Any:
    """Dark material with a saturated reflection [H, W, C] uint16, and a spot of so much contrast."""
    import numpy as np

    rng = np.random.default_rng([SEED, seed])
    y, x = np.mgrid[:SIDE, :SIDE]
    shade = 1 + 0.1 * np.sin(x / 19 + rng.uniform(-0.2, 0.2)) * np.cos(y / 23)
    picture = np.array(MATERIAL[:colours]) * shade[..., None]
    down, across = rng.uniform(24, SIDE - 12, 2)
    picture *= 1 + contrast * (np.hypot(y - down, x - across) < 7)[..., None]
    picture += rng.normal(0, NOISE, picture.shape)
    picture[4:10] = WHITE
    return np.clip(np.rint(picture), 0, WHITE).astype(np.uint16)


def under_lights(seed: int, light: int | None, shifted: bool, side: int = SIDE) -> Any:
    """A textured part under lights from four sides [H, W, 4] uint8, with a ridge that one of them shows."""
    import numpy as np
    from scipy import ndimage

    rng = np.random.default_rng([SEED, seed, shifted])
    y, x = np.mgrid[:side, :side] - side / 2
    texture = 6 * ndimage.gaussian_filter(rng.normal(0, 1, (side, side)), 2)
    down, across = rng.uniform(-18, 18, 2)
    drawn = []
    for k in range(LIGHTS):
        angle = k * np.pi / 2
        shade = 120 + 30 * (np.cos(angle) * x + np.sin(angle) * y) / 36
        picture = np.where(np.hypot(x, y) < 36, shade + texture * np.cos(angle + 0.3), 40.0)
        if light == k:
            picture += 30 * (np.hypot(x - across, 2 * (y - down)) < 6)
        picture += rng.normal(0, 4, picture.shape)
        if shifted:
            picture = ndimage.shift(picture, rng.integers(-1, 2, 2), order=0, mode="nearest")
        drawn.append(picture)
    return np.clip(np.rint(np.stack(drawn, 2)), 0, 255).astype(np.uint8)


def measure_deep(args: Args, colours: int, bits: int) -> Cell:
    import numpy as np
    from sklearn.metrics import roc_auc_score

    import flawscope

    def made(count: int, first: int, contrast: float) -> list[Any]:
        pictures = [material(first + k, colours, contrast) for k in range(count)]
        return pictures if bits == 12 else [(p >> 4).astype(np.uint8) for p in pictures]

    names = [f"{k}.png" for k in range(args.good)]  # each is a part of its own, however alike
    settings = {"size": SIDE, "check": False, "samples": 0, "device": "cpu", "group": r"\d+", "names": names}
    model = flawscope.fit(made(args.good, 0, 0), false_alarm_rate=RATE, **settings)
    good = model.predict(made(args.new, 10_000, 0))
    cell: Cell = {"white level": model.manifest.preprocess.levels}
    cell |= {"alarms": sum(p.is_anomalous for p in good), "of": args.new}
    cell["promised"] = round(model.calibration.expected_rate, 3)
    for contrast in CONTRASTS:
        bad = model.predict(made(args.new, 20_000, contrast))
        scores = [p.score for p in (*good, *bad)]
        cell[f"AUROC {contrast:.0%}"] = round(
            float(roc_auc_score([0] * len(good) + [1] * len(bad), scores)), 3
        )
        cell[f"found {contrast:.0%}"] = sum(p.is_anomalous for p in bad)
    return cell


def measure_lights(args: Args, way: dict[str, Any], shifted: bool) -> Cell:
    def made(count: int, first: int, bad: bool) -> list[Any]:
        return [under_lights(first + k, k % LIGHTS if bad else None, shifted) for k in range(count)]

    learnt, good, bad = made(args.good, 0, False), made(args.new, 10_000, False), made(args.new, 20_000, True)
    judge = judge_files(args, learnt, "each" in way) if "part" in way else judge_pictures(learnt, way)
    alarms, found = ([judge(picture) for picture in several] for several in (good, bad))
    each = [sum(found[k::LIGHTS]) for k in range(LIGHTS)]
    return {
        "alarms": sum(alarms),
        "of": args.new,
        "found under each light": each,
        "each of": args.new // LIGHTS,
    }


def measure_promise(args: Args) -> Cell:
    """New good parts that models of all four lights call anomalous, each model of another draw of 20."""
    import flawscope

    settings = {"size": 64, "channels": "all", "check": False, "samples": 0, "device": "cpu", "cap": 1000}
    alarms, promised = [], 0.0
    for draw in range(args.draws):
        first = 100_000 * (draw + 1)
        drawn = [under_lights(first + k, None, draw % 2 == 1, 64) for k in range(80)]
        model = flawscope.fit(drawn[:20], false_alarm_rate=RATE, **settings)
        alarms.append(sum(p.is_anomalous for p in model.predict(drawn[20:])))
        promised += model.calibration.expected_rate / args.draws
    return {"alarms": sum(alarms), "of": 60 * args.draws, "promised": round(promised, 4), "each": alarms}


def judge_pictures(learnt: list[Any], way: dict[str, Any]) -> Any:
    import numpy as np

    import flawscope

    def seen(picture: Any) -> Any:
        return np.ascontiguousarray(picture[..., way["light"]]) if "light" in way else picture

    how = {"channels": way["channels"]} if "channels" in way else {}
    settings = {"size": SIDE, "check": False, "samples": 0, "device": "cpu", "false_alarm_rate": RATE}
    model = flawscope.fit([seen(one) for one in learnt], **settings, **how)
    return lambda picture: model.predict(seen(picture)).is_anomalous


def judge_files(args: Args, learnt: list[Any], each: bool) -> Any:
    from PIL import Image

    import flawscope
    from flawscope.cli import main as flawscope_command

    work = Path(tempfile.mkdtemp(dir=args.work))
    (work / "good").mkdir()
    for number, picture in enumerate(learnt):
        for k in range(LIGHTS):
            Image.fromarray(picture[..., k]).save(work / f"good/{number:03d}_l{k}.png")
    words = ["fit", "--data", str(work / "good"), "--channels", "{part}_{light}.png", "--size", str(SIDE)]
    words += ["--each-view"] if each else []
    words += [
        "--out",
        str(work / "m.safetensors"),
        "--no-check",
        "--no-samples",
        "--device",
        "cpu",
        "--quiet",
    ]
    if flawscope_command(words):
        raise RuntimeError("the fit failed")
    model = flawscope.load(work / "m.safetensors")

    def judge(picture: Any) -> bool:
        views = {f"l{k}": picture[..., k].copy() for k in range(LIGHTS)}
        return bool(model.predict_part(views, "new").is_anomalous)

    return judge


def main() -> int:
    parser = common.make_parser(__doc__, "pixels", data=False)
    parser.add_argument("--good", type=int, default=40, help="pictures to learn from (default: %(default)s)")
    parser.add_argument(
        "--new", type=int, default=80, help="new pictures of each kind (default: %(default)s)"
    )
    parser.add_argument("--draws", type=int, default=40, help="models for the promise (default: %(default)s)")
    args = common.parse_arguments(parser, good=20, new=8, draws=1)
    record = common.Record(args, "what deep colour and several channels are worth")
    rows = []
    for colours in (3, 1):
        for bits in (12, 8):
            name = f"deep/{'colour' if colours == 3 else 'grey'}, {bits} bits"
            cell = record.attempt(name, lambda c=colours, b=bits: measure_deep(args, c, b))  # type: ignore[misc]
            rows.append({"pictures": name, **common.without_metadata(cell or {})})
    common.print_table("dark material", rows)
    rows = []
    for shifted in (False, True):
        for name, way in WAYS.items():
            name = f"lights/{name}{', shifted' if shifted else ''}"
            cell = record.attempt(name, lambda w=way, s=shifted: measure_lights(args, w, s))  # type: ignore[misc]
            rows.append({"seen as": name, **common.without_metadata(cell or {})})
    common.print_table("a defect that one of four lights shows", rows)
    cell = record.attempt("promise/all", lambda: measure_promise(args))
    common.print_table("new good parts under four lights", [common.without_metadata(cell or {})])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
