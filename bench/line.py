"""A line for an hour: does every part have one outcome, and is none OK that was not judged good?

    python bench/line.py
    python bench/line.py --minutes 10 --seed 3
    python bench/line.py --minutes 10 --viewers 8

Two belts with a camera above each (`emulated_line.belt`, processes of their own), two PLCs that have a part
a second inspected, one over Modbus and one over OPC UA, a station in a process of its own on SQLite, and
Mosquitto. At random moments the station or a camera is killed, or the cable of a PLC is cut, and comes back.
A part whose time passes before the station is ready is a fault; the belts never wait. With `--viewers` people
look meanwhile (`viewers.py`), and nothing breaks: what is not answered in time beyond `--viewers 0` is their
doing.

At the end: outcomes at the PLCs, OKs and NOKs that the store does not have as such, parts that it has twice,
recorded pictures that do not show the part, and inspections that MQTT did not tell exactly as they are.
"""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

import common
from common import Args, Cell

sys.path.insert(0, str(common.ROOT / "station" / "tests"))
sys.path.insert(0, str(common.ROOT / "line" / "tests"))
sys.path.insert(0, str(common.ROOT / "examples" / "line"))

from emulated_line import belt
from emulated_line.plc import FAULT, GOOD, Again, ModbusClient, OpcUaClient, Plc

import plugin_helpers
from sink_helpers import Cable, Listener, Mosquitto
from station_helpers import NAME, Served, everything, free_port, until
from viewers import Viewers

PERIOD = 1.0  # seconds from part to part on a belt
PARTS = 24  # pictures that come again and again
DOWN = (0.2, 4.0)  # seconds that a camera or a link stays away
SETTINGS = """\
products:
  {name}:
    model: {model}
    camera_checks: false
    sources:
      - {{camera: "http://127.0.0.1:{cameras[0]}/", every: trigger, latency: 50 ms, lost_after: 2 s}}
      - {{camera: "http://127.0.0.1:{cameras[1]}/", every: trigger, latency: 50 ms, lost_after: 2 s}}
connections:
  - modbus: {{listen: "127.0.0.1:{ports[0]}", recipes: {{1: {name}}}, camera: {name}/1, deadline: 700 ms}}
  - opcua: {{listen: "127.0.0.1:{ports[1]}", recipes: {{1: {name}}}, camera: {name}/2, deadline: 700 ms}}
mqtt: {{broker: "{broker}"}}
store: {store}
threads: 1
device: cpu
"""


def made(args: Args, work: Path) -> tuple[Path, Path]:
    """An exported model, and the folder of the parts that pass by: every third has a defect."""
    exported, data = common.exported_model(work, args.size, train=40, good=PARTS, side=256)
    parts = work / "parts"
    if not parts.is_dir():
        parts.mkdir()
        kinds = sorted(path for path in (data / "test").glob("*/*.png") if path.parent.name != "good")
        good = sorted((data / "test/good").iterdir())
        for number in range(PARTS):
            source = kinds[5 * number % len(kinds)] if number % 3 == 2 else good[number]
            (parts / f"{number:03}.png").write_bytes(source.read_bytes())
    return exported, parts


@dataclass
class Camera:
    """A camera above a belt, to kill."""

    parts: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "emulated_line.belt", str(self.port), str(self.parts)]
        self.process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(plugin_helpers.LINE)})

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def place(self, number: int) -> None:
        with suppress(OSError):  # it was killed: the part lies there, and nobody sees it
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{number}", b"", 1).close()


@dataclass
class Belt:
    """A PLC and its belt. outcomes: by part: the outcome, and the inspection of an OK or NOK."""

    letter: str
    camera: Camera
    plc: Plc
    cable: Cable
    outcomes: dict[str, tuple[str, int]] = field(default_factory=dict)

    def run(self, parts: int) -> None:
        begun = time.monotonic()
        for number in range(parts):
            time.sleep(max(0.0, begun + number * PERIOD - time.monotonic()))
            self.camera.place(number)
            time.sleep(1.5 * belt.MOVE)
            part, outcome, shown = f"{self.letter}{number:06}", FAULT, None
            if self.plc.ready(1, seconds=0.1) is not None:
                outcome, shown = self.plc.inspect(part, seconds=1.0)
            self.outcomes[part] = outcome, shown["inspection"] if shown and outcome != FAULT else 0


def faults(rng: random.Random, mean: float, ended: threading.Event, kinds: list[Any]) -> Counter[str]:
    """Breaks something now and then, and mends it; returns how often what was broken."""
    done: Counter[str] = Counter()
    while not ended.wait(rng.expovariate(1 / mean)):
        name, broken, mended = rng.choice(kinds)
        broken()
        ended.wait(rng.uniform(*DOWN))
        mended()
        done[name] += 1
    return done


def whole(args: Args, work: Path) -> Cell:
    """Run the line and compare what all sides have."""
    model, parts = made(args, work)
    with tempfile.TemporaryDirectory() as place, ExitStack() as ending:
        folder = Path(place)
        site = plugin_helpers.install(folder / "site", plugin_helpers.LINE)
        broker, path = Mosquitto(folder / "broker"), folder / "station.yaml"
        ports = [free_port(), free_port()]
        broker.start()
        ending.callback(broker.kill)
        cameras = [Camera(parts), Camera(parts)]
        for camera in cameras:
            ending.callback(camera.kill)
            camera.start()
        given: dict[str, Any] = {"name": NAME, "model": model, "ports": ports, "broker": broker.url}
        numbers = [camera.port for camera in cameras]
        path.write_text(SETTINGS.format(cameras=numbers, store=folder / "store", **given))
        environment = os.pathsep.join((str(site), str(plugin_helpers.LINE), *common.SOURCES))
        served = Served([str(path)], free_port(), {"PYTHONPATH": environment})
        listener = Listener(broker.port, f"flawscope/+/{NAME}/inspection")
        ending.callback(listener.close)
        served.start()
        ending.callback(lambda: served.kill())
        cables = [Cable(port) for port in ports]
        wires: list[Callable[[], Any]] = [
            lambda: ModbusClient("127.0.0.1", cables[0].port),
            lambda: OpcUaClient(f"opc.tcp://127.0.0.1:{cables[1].port}/"),
        ]
        belts = [
            Belt(letter, camera, Plc(Again(wire)), cable)
            for letter, camera, wire, cable in zip("mo", cameras, wires, cables, strict=True)
        ]
        for one in belts:
            ending.callback(one.plc.close)
            ending.callback(one.cable.close)
            until(partial(one.plc.ready, 1, 1.0), "the station is not ready")
        ended, broken = threading.Event(), list[Counter[str]]()
        kinds = [("station", served.kill, partial(served.start, 240.0))] * 2
        kinds += [("camera", one.camera.kill, one.camera.start) for one in belts]
        kinds += [("cable", one.cable.cut, one.cable.plug) for one in belts]
        rng, count = random.Random(args.seed), round(60 * args.minutes / PERIOD)
        breaks = lambda: broken.append(faults(rng, args.mean, ended, kinds))  # noqa: E731
        people = Viewers(served.url, args.viewers or 0)
        breaking = threading.Thread(target=breaks if args.viewers is None else people.start, daemon=True)
        running = [threading.Thread(target=one.run, args=(count,), daemon=True) for one in belts]
        for thread in [breaking, *running]:
            thread.start()
        for thread in running:
            thread.join()
        ended.set()
        breaking.join()
        people.end()
        seen = {"seen by viewers": {str(status): count for status, count in people.statuses.items()}}
        return {**compared(belts, served.url, listener, parts, sum(broken, Counter())), **seen}


def compared(belts: list[Belt], url: str, listener: Listener, parts: Path, broken: Counter[str]) -> Cell:
    """What the PLCs, the store and MQTT have."""
    recorded = {one["id"]: one for one in everything(url)}

    def told() -> dict[int, Any]:
        topic = next((name for name, _ in list(listener.messages)), "")
        return {one["data"]["id"]: one["data"] for one in listener.of(topic)}

    until(lambda: len(told()) >= len(recorded), "MQTT did not tell all inspections")
    messages = told()
    outcomes = {part: found for one in belts for part, found in one.outcomes.items()}
    words = {GOOD: "good", "nok": "anomalous"}
    known = {(number, row["part"], row["decision"]) for number, row in recorded.items()}
    said = [(number, part, words[how]) for part, (how, number) in outcomes.items() if how in words]
    seen = Counter(row["part"] for row in recorded.values())
    counted = Counter(outcome for outcome, _ in outcomes.values())
    answered = {number for outcome, number in outcomes.values() if outcome != FAULT}
    return {
        "parts": sum(len(one.outcomes) for one in belts),
        **{name: counted[name] for name in ("ok", "nok", FAULT)},
        "unsafe": sum(one not in known for one in said),
        "recorded": len(recorded),
        "recorded good": sum(row["decision"] == "good" for row in recorded.values()),
        "not told in time": len(recorded.keys() - answered),
        "recorded twice": sum(times > 1 for times in seen.values()),
        "of another part": len(pictures_of_others(url, recorded, parts)),
        "told by MQTT": len(messages),
        "told otherwise": sum(
            messages.get(n, {}).get("decision") != row["decision"] for n, row in recorded.items()
        ),
        "broken": dict(broken),
    }


def pictures_of_others(url: str, recorded: dict[int, Any], parts: Path) -> list[int]:
    """Numbers of inspections whose picture is nearest to that of another part than theirs."""

    def small(data: bytes | Path) -> np.ndarray:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as picture:
            return np.asarray(picture.convert("L").resize((64, 64)), np.float32)

    known, wrong = np.stack([small(path) for path in belt.pictures(parts)]), []
    with httpx.Client(base_url=f"{url}/api/v1/products/{NAME}/inspections/", timeout=60) as client:
        for number, row in recorded.items():
            seen = small(client.get(f"{number}/picture").raise_for_status().content)
            nearest = int(np.abs(known - seen).mean((1, 2)).argmin())
            if nearest != int(row["part"][1:]) % PARTS:
                wrong.append(number)
    return wrong


def main() -> int:
    parser = common.make_parser(__doc__, "line")
    parser.add_argument("--minutes", type=float, default=60.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: %(default)s)")
    parser.add_argument("--viewers", type=int, help="people who look, 0 or more; then nothing breaks")
    parser.set_defaults(mean=20.0, size="128")  # seconds between faults; of the model's pictures
    args = common.parse_arguments(parser, minutes=0.3, mean=4.0, size="64")
    record = common.Record(args, "a line with two PLCs, whose station, cameras and cables break")
    with common.workspace(args.work) as work:
        name = f"{args.minutes:g} minutes, {2 / PERIOD:g} parts a second, seed {args.seed}"
        name += "" if args.viewers is None else f", {args.viewers} viewers"
        cell = record.cell(name, partial(whole, args, work))
        common.print_table("a line", [common.without_metadata(cell)])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
