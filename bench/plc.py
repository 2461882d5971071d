"""A PLC: how long from trigger to output, and does any history give OK for a part that was not judged good?

    python bench/plc.py
    python bench/plc.py --only histories --histories 100000

PatchCore is fitted on drawn plates and exported. The station is `flawscope serve` in a process of its own on
SQLite, with the emulated camera of examples/line, which gives a picture at once; the PLC is that of
examples/line, in this process.

time        one part after another over each wire: at the PLC, from the write of Trigger to the read of Done,
            less `Predictor.predict` of the same pictures in this process, between the parts; in turn with
            POSTs of the same pictures to the same station; and what the station says of itself
histories   histories of signals, faults and time that Hypothesis draws: how many parts, how many of each
            outcome, and unsafe outputs
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import httpx
import numpy as np

import common
from common import Args, Cell

sys.path.insert(0, str(common.ROOT / "station" / "tests"))
sys.path.insert(0, str(common.ROOT / "line" / "tests"))
sys.path.insert(0, str(common.ROOT / "examples" / "line"))

import plc_helpers
import plugin_helpers
from plc_histories import LENGTHS, live
from station_helpers import Served, free_port

TARGET = {"p50": 10.0, "p99": 40.0}  # milliseconds beyond predict
WARM = 20  # parts before the first one that counts
CHUNKS = 10  # of the histories, each written when it is done


def timed(args: Args, wire: str, work: Path) -> Cell:
    """Times of parts over one wire, in milliseconds."""
    import flawscope
    from flawscope_station.settings.station import Settings

    model, drawn = common.exported_model(work, args.size, train=24, good=12, side=args.side)
    pictures = drawn / "test" / "good"
    predictor = flawscope.load(model, device="cpu", threads=args.threads)
    data = [path.read_bytes() for path in sorted(pictures.iterdir())]
    with tempfile.TemporaryDirectory() as folder:
        site = plugin_helpers.install(
            Path(folder) / "site", plugin_helpers.ROOT / "line", plugin_helpers.LINE
        )
        port, path = free_port(), Path(folder) / "station.yaml"
        setting = plc_helpers.connection(wire, port, {1: "plate"})
        settings = Settings(store=str(Path(folder) / "store"))
        text = plc_helpers.settings_text(settings, {"plate": f"{model} {pictures}"}, setting)
        path.write_text(text.replace("threads: 1", f"threads: {args.threads}"))
        here = os.pathsep.join((str(site), str(plugin_helpers.LINE), *common.SOURCES))
        served = Served([str(path)], free_port(), {"PYTHONPATH": here})
        plc = plc_helpers.plc_at(wire, port) if wire == "modbus-client" else None
        served.start()
        plc = plc or plc_helpers.plc_at(wire, port)
        whole, alone, posts = [], [], []
        try:
            client = httpx.Client(base_url=f"{served.url}/api/v1/products/plate/", timeout=60)
            for number in range(WARM + args.parts):
                assert plc.ready(1) is not None, "the station is not ready"
                outcome, seen = plc.inspect(f"{number}")
                assert outcome != "fault", seen
                whole.append(1000 * (plc.answered - plc.raised))
                begun = time.perf_counter()
                predictor.predict(data[number % len(data)])
                alone.append(1000 * (time.perf_counter() - begun))
                picture = data[number % len(data)] + b"%d" % number  # what follows a PNG is not read
                begun = time.perf_counter()
                assert client.post("inspections", content=picture).status_code == 201
                posts.append(1000 * (time.perf_counter() - begun))
            metrics = httpx.get(f"{served.url}/metrics", timeout=30).text
        finally:
            plc.close()
            served.kill()
    found = {"whole": whole[WARM:], "predict": alone[WARM:], "post": posts[WARM:]}
    found["beyond"] = [one - float(np.median(found["predict"])) for one in found["whole"]]
    lines = (line.rpartition(" ") for line in metrics.splitlines() if line.startswith("flawscope_"))
    said = {name.partition("{")[0]: float(value) for name, _, value in lines}
    own = {f"station_p{p}": 1000 * said[f"flawscope_trigger_seconds_p{p}"] for p in (50, 99)}
    times = {f"{k}_p{p}": float(np.percentile(v, p)) for k, v in found.items() for p in (50, 99)}
    return {"parts": args.parts, **times, **own, "missed": said["flawscope_missed_deadlines_total"]}


def histories(count: int, number: int) -> Cell:
    """Live through histories that Hypothesis draws, others for each number."""
    from hypothesis import HealthCheck, given, seed, settings
    from hypothesis import strategies as st

    found: Counter[str] = Counter()
    unsafe: list[str] = []

    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(st.binary(min_size=LENGTHS[0], max_size=LENGTHS[1]))
    def check(history: bytes) -> None:
        found["histories"] += 1
        found["events"] += len(history)
        found.update(live(history))

    try:
        check()
    except AssertionError as error:
        unsafe.append(str(error).splitlines()[0])
    return {"unsafe": len(unsafe), **dict(sorted(found.items()))}


def main() -> int:
    parser = common.make_parser(__doc__, "plc", data=False)
    parser.add_argument("--only", default="time,histories", help="default: %(default)s")
    parser.add_argument("--parts", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--histories", type=int, default=100_000, help="default: %(default)s")
    parser.set_defaults(wires=plc_helpers.WIRES, size="256", side=640)  # of the model's and camera's pictures
    args = common.parse_arguments(parser, parts=5, histories=200, size="64", side=96, wires=["modbus"])
    record = common.Record(args, "a PLC: from trigger to output, and histories of the handshake")
    with common.workspace(args.work) as work:
        if "time" in args.only:
            cells = {w: record.cell(f"time/{w}", partial(timed, args, w, work)) for w in args.wires}
            shown = ["whole_p50", "predict_p50"]
            shown += [f"{name}_p{p}" for name in ("beyond", "post", "station") for p in (50, 99)]
            rows = [{"wire": w, **{k: common.round_to(one[k], 3) for k in shown}} for w, one in cells.items()]
            common.print_table(f"milliseconds; wanted beyond predict: {TARGET}", rows)
    if "histories" in args.only:
        total: Counter[str] = Counter()
        for number in range(CHUNKS):
            work = partial(histories, args.histories // CHUNKS, number)
            cell = record.cell(f"histories/{number}", work)
            total.update(common.without_metadata(cell))
        common.print_table("histories", [dict(total)])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
