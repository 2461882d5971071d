"""Draw the handshake with a PLC: `python docs/draw_plc.py` writes images/plc-signals.svg and
images/plc-phases.svg.

The signals are what flawscope_line.plc.handshake says in three parts that it is taken through: one good,
one anomalous, one that is not judged in time. line/tests/whole/test_plc_handshake_whole.py checks that the
arrows between the phases are those that it takes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flawscope_line.plc.handshake import (
    Answer,
    Inputs,
    Observation,
    RecipeLoaded,
    Rules,
    State,
    outputs,
    step,
)

IMAGES = Path(__file__).parent / "images"
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #16302e }
  .note { font-size: 12px; fill: #64748b }
  .line { fill: none; stroke: #00796b; stroke-width: 2 }
  .theirs { stroke: #c2410c }
  .box { fill: #e0f2f1; stroke: #00796b; stroke-width: 1.2 }
  .arrow { fill: none; stroke: #64748b; stroke-width: 1.2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e2f3f1 }
    .note { fill: #94a3b8 }
    .line { stroke: #5eead4 }
    .theirs { stroke: #fdba74 }
    .box { fill: #134e4a; stroke: #5eead4 }
    .arrow { stroke: #94a3b8 }
  }
"""
LANES = ("trigger", "ready", "busy", "done", "ok", "nok", "error")
STEP, LANE, LEFT = 26, 34, 90  # pixels
# phase, next phase, why, place of the text
ARROWS = (
    ("waiting", "idle", "heartbeat beats,\nTrigger low", 172, 38),
    ("idle", "waiting", "heartbeat stands still", 172, 112),
    ("waiting", "done", "heartbeat beats, Trigger high: Error", 396, 254),
    ("idle", "busy", "Trigger rises, Ready", 470, 38),
    ("busy", "idle", "Trigger falls: no answer", 470, 112),
    ("idle", "done", "Trigger rises, not Ready: Error", 505, 172),
    ("busy", "done", "judged: OK or NOK;\nlate, failed, link lost: Error", 712, 140),
    ("done", "idle", "Trigger falls", 292, 170),
)
BOXES = {"waiting": (60, 75), "idle": (320, 75), "busy": (620, 75), "done": (620, 215)}
PATHS = {
    ("waiting", "idle"): "M105 65 H275",
    ("idle", "waiting"): "M275 85 H105",
    ("idle", "busy"): "M365 65 H575",
    ("busy", "idle"): "M575 85 H365",
    ("busy", "done"): "M620 97 V193",
    ("idle", "done"): "M345 97 C380 190 470 200 575 207",
    ("done", "idle"): "M575 220 C430 225 330 190 318 97",
    ("waiting", "done"): "M60 97 C80 260 400 250 575 232",
}


def played() -> list[dict[str, bool]]:
    """The signals, step by step."""
    rules, state, plc, found = Rules({1: 0.55}), State(), Inputs(recipe=1), []
    parts = [(True, 2), (False, 2), (True, 9)]  # how it is judged, and after how many steps
    moves: list[dict[str, object]] = [{}, {}, {"loaded": RecipeLoaded(1)}, {}]
    for good, wait in parts:
        moves += [{"trigger": True}, *[{}] * wait, {"answer": good}, {}, {"trigger": False}, {}]
    for number, move in enumerate(moves):
        plc = replace(plc, heartbeat=number, trigger=bool(move.get("trigger", plc.trigger)))
        answer = Answer(state.job, bool(move["answer"])) if "answer" in move else None
        seen = Observation(number * 0.1, plc, answer, move.get("loaded"))  # type: ignore[arg-type]
        state = step(state, seen, rules)
        found.append({"trigger": plc.trigger, **vars(outputs(state, rules))})
    return found[3:]


def signals() -> str:
    shown = played()
    width, height = LEFT + STEP * len(shown) + 20, LANE * len(LANES) + 40
    parts = []
    for row, name in enumerate(LANES):
        low = 40 + LANE * row + 20
        path = ""
        for place, one in enumerate(shown):
            y = low - 20 * bool(one[name])
            path += f"{'L' if path else 'M'}{LEFT + STEP * place} {y} H{LEFT + STEP * (place + 1)} "
        label = name.upper() if name in ("ok", "nok") else name.capitalize()
        kind = "line theirs" if name == "trigger" else "line"
        parts += [f'<text x="12" y="{low}">{label}</text>', f'<path class="{kind}" d="{path.strip()}"/>']
    rises = [k for k, one in enumerate(shown) if one["trigger"] and not shown[k - 1]["trigger"]]
    for place, text in zip(rises, ("good", "anomalous", "not judged in time"), strict=True):
        parts.append(f'<text class="note" x="{LEFT + STEP * place}" y="20">{text}</text>')
    return svg(width, height, parts)


def phases() -> str:
    parts = [
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#64748b"/></marker>'
    ]
    for name, (x, y) in BOXES.items():
        parts.append(f'<rect class="box" x="{x - 45}" y="{y - 22}" width="90" height="44" rx="8"/>')
        parts.append(f'<text x="{x}" y="{y + 5}" text-anchor="middle">{name.capitalize()}</text>')
    for start, end, text, x, y in ARROWS:
        parts.append(f'<path class="arrow" d="{PATHS[start, end]}" marker-end="url(#tip)"/>')
        for row, line in enumerate(text.split("\n")):
            place = f'x="{x}" y="{y + 15 * row}" text-anchor="middle"'
            parts.append(f'<text class="note" {place}>{line}</text>')
    return svg(830, 280, parts)


def svg(width: int, height: int, parts: list[str]) -> str:
    body = "\n".join(parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
    return f"{head}\n<style>{STYLE}</style>\n{body}\n</svg>\n"


if __name__ == "__main__":
    (IMAGES / "plc-signals.svg").write_text(signals(), encoding="utf-8")
    (IMAGES / "plc-phases.svg").write_text(phases(), encoding="utf-8")
