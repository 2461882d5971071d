"""A whole line on this machine: `python -m emulated_line`.

Draws parts and learns them (once, in the folder `line`), starts a camera above a belt, a station and a PLC
that has part after part inspected over Modbus, and writes a line for each.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from emulated_line import belt
from emulated_line.plc import Again, ModbusClient, Plc

STATION = """\
# a line to try: docs/station-plc.md has all settings
products:
  plate:
    model: part.safetensors
    deadline: 2 s                 # from Trigger to the answer; else Error
    sources:
      - camera: http://127.0.0.1:{camera}/
        every: trigger
        latency: 100 ms           # from the exposure of a frame until it is decoded, at most
connections:
  - modbus:
      listen: 127.0.0.1:{plc}
      recipes: {{1: plate}}
"""


def made(folder: Path) -> None:
    """Draws good parts and learns them; draws parts for the belt, every fourth with a defect."""
    flawscope = [sys.executable, "-m", "flawscope"]
    subprocess.run(
        [*flawscope, "demo", "--only-draw", "--train", "40", "--out", folder, "--quiet"], check=True
    )
    model = folder / "part.safetensors"
    words = ["fit", "--data", folder / "plate", "--size", "128", "--out", model, "--quiet"]
    subprocess.run([*flawscope, *words], check=True)
    test, parts = folder / "plate" / "test", folder / "parts"
    parts.mkdir(exist_ok=True)
    good = sorted((test / "good").iterdir())
    bad = sorted(path for path in test.glob("*/*.png") if path.parent.name != "good")
    for number in range(2 * len(good)):
        defective = number % 4 == 3
        source = bad[7 * number % len(bad)] if defective else good[number % len(good)]
        name = source.parent.name
        shutil.copy(source, parts / f"{number:03}_{name}.png")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m emulated_line", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("line"), help="default: %(default)s")
    parser.add_argument("--parts", type=int, default=20, help="default: %(default)s")
    parser.add_argument(
        "--port", type=int, default=8080, help="of the station's pages (default: %(default)s)"
    )
    args = parser.parse_args()
    if not (args.folder / "part.safetensors").exists():
        print(f"learning from drawn parts in {args.folder}, which takes half a minute")
        made(args.folder)
    camera, port = free_port(), free_port()
    settings = args.folder / "station.yaml"
    settings.write_text(STATION.format(camera=camera, plc=port))
    with ExitStack() as ending:
        ending.callback(belt.start(camera, args.folder / "parts").shutdown)
        command = [sys.executable, "-m", "flawscope", "serve", str(settings), "--port", str(args.port)]
        station = subprocess.Popen(command)
        ending.callback(station.wait)
        ending.callback(station.terminate)
        plc = Plc(Again(lambda: ModbusClient("127.0.0.1", port)))
        ending.callback(plc.close)
        run(station, plc, camera, args)
        print("the station stays open: look at its pages, and end it with Ctrl-C")
        try:
            station.wait()
        except KeyboardInterrupt:
            print()


def run(station: subprocess.Popen[bytes], plc: Plc, camera: int, args: argparse.Namespace) -> None:
    """Moves parts under the camera and has them inspected."""
    names = [path.stem for path in belt.pictures(args.folder / "parts")]
    while plc.ready(1, seconds=1.0) is None:  # it opens the model
        if station.poll() is not None:
            raise SystemExit("the station ended: see above")
        time.sleep(0.1)
    print("part    it is                says   score  ms")
    for number in range(args.parts):
        urllib.request.urlopen(f"http://127.0.0.1:{camera}/{number}", b"", 5).close()
        time.sleep(2 * belt.MOVE)
        outcome, shown = plc.inspect(f"{number:06}") if plc.ready(1) else ("fault", None)
        took, score = 1000 * (plc.answered - plc.raised), shown["score"] if shown else 0.0
        print(f"{number:06}  {names[number % len(names)][4:]:20} {outcome:5} {score:6.3g} {took:3.0f}")
    print(", ".join(f"{count} {outcome}" for outcome, count in plc.outcomes.most_common()))


if __name__ == "__main__":
    main()
