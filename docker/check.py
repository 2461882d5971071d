"""Run the Dockerfile's steps without a Docker daemon, in a temporary folder, and try what they make.

    python docker/check.py runtime --model part.onnx --pictures FOLDER
    TORCH_INDEX=https://pypi.org/simple python docker/check.py train

ENV, ARG, WORKDIR, COPY and the RUN steps that call python or pip are done as written, with folders of the
image put into the temporary one; an ARG is taken from the environment if it is there. What needs a daemon or
root (the base image, the user) is left out. Run it with the Python version of the base image.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
IN_IMAGE = ("/opt/", "/build", "/data")  # folders of the image that the steps name


class Stage(NamedTuple):
    """One FROM: its name, what it starts from, and its instructions with what follows them."""

    name: str
    base: str
    steps: tuple[tuple[str, str], ...]


def parse(path: Path = ROOT / "Dockerfile") -> tuple[dict[str, str], dict[str, Stage]]:
    """The ARGs before the first FROM with their defaults, and the stages by name, in order."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    text = "\n".join(
        line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()[:1] != "#"
    )
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, rest = line.split(maxsplit=1)
        word, rest = word.upper(), " ".join(rest.split())
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest, re.I).groups()  # type: ignore[union-attr]
            stages[name] = Stage(name, base, ())
        elif stages:
            name, stage = stages.popitem()
            stages[name] = stage._replace(steps=(*stage.steps, (word, rest)))
        else:
            key, _, value = rest.partition("=")
            arguments[key] = value
    return arguments, stages


def lineage(stages: dict[str, Stage], name: str) -> Iterator[tuple[str, str]]:
    """Every instruction of a stage and of those it starts from, in the order in which they take effect."""
    stage = stages[name]
    if stage.base in stages:
        yield from lineage(stages, stage.base)
    yield from stage.steps


def build(target: str, folder: Path) -> Path:
    """Do the steps of a target in `folder`; the environment's folder of programs."""
    _, stages = parse()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    given, where = dict(os.environ), folder
    copied = [word.split("--from=")[1] for word in _words(stages[target]) if word.startswith("--from=")]
    for source in copied:
        for word, rest in lineage(stages, source):
            if word in ("ENV", "ARG"):
                for pair in shlex.split(rest):
                    key, _, value = pair.partition("=")
                    value = given.get(key, value) if word == "ARG" else _expanded(value, environment)
                    environment[key] = _moved(value, folder)
            elif word == "WORKDIR":
                where = Path(_moved(rest, folder))
                where.mkdir(parents=True, exist_ok=True)
            elif word == "COPY":
                *names, to = shlex.split(rest)
                for name in names:
                    _copy(ROOT / name, where / to)
            elif word == "RUN" and rest.split()[0] in ("python", "pip"):
                print(f"RUN {rest}", file=sys.stderr, flush=True)
                subprocess.run(["sh", "-ec", rest], cwd=where, env=environment, check=True)
    return Path(environment["VIRTUAL_ENV"]) / "bin"


def try_out(target: str, programs: Path, model: str | None, pictures: Sequence[str], folder: Path) -> None:
    """What the image promises: its command answers, torch is there or not, exported models predict."""

    def run(*words: str | Path) -> str:
        command = [str(word) for word in words]
        print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        done = subprocess.run(command, cwd=folder, env=clean, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout

    print(run(programs / "flawscope", "--version").strip())
    found = json.loads(
        run(
            programs / "python",
            "-c",
            "import importlib.util as u, json;"
            "print(json.dumps([n for n in ('torch', 'timm', 'onnx', 'openvino', 'onnxruntime', 'matplotlib')"
            " if u.find_spec(n)]))",
        )
    )
    print(f"{target} has {', '.join(found)}")
    if ("torch" in found) != (target == "train"):
        sys.exit("torch belongs into the image train, and only there")
    if not {"openvino", "onnxruntime"} <= set(found):
        sys.exit("an engine for exported models is missing")
    if target == "station":
        run(programs / "flawscope", "serve", "--help")
        run(programs / "python", "-c", "import flawscope_station.core.station, flawscope_station.web.app")
    if target == "train" and not model:
        run(programs / "flawscope", "demo", "--out", "demo", "--train", "20", "--quiet")
        run(programs / "flawscope", "export", "demo/plate.safetensors", "--out", "part.onnx", "--quiet")
        model, pictures = "part.onnx", ["demo/data/plate/test/scratch"]
    if model:
        lines = run(programs / "flawscope", "predict", model, *pictures, "--json", "--quiet").splitlines()
        print(f"{len(lines)} pictures predicted, the first with score {json.loads(lines[0])['score']:.6g}")


def _words(stage: Stage) -> list[str]:
    return [word for name, rest in stage.steps if name == "COPY" for word in rest.split()]


def _expanded(value: str, environment: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda match: environment.get(match[1], ""), value)


def _moved(value: str, folder: Path) -> str:
    """Folders of the image as folders in the temporary one."""
    return ":".join(f"{folder}{part}" if part.startswith(IN_IMAGE) else part for part in value.split(":"))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("target", choices=("runtime", "train", "station"))
    parser.add_argument("--model", help="an exported model to predict with (train: made there if missing)")
    parser.add_argument("--pictures", nargs="+", default=[], help="files or folders for it")
    args = parser.parse_args()
    model = os.path.abspath(args.model) if args.model else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = build(args.target, folder)
        try_out(args.target, programs, model, [os.path.abspath(p) for p in args.pictures], folder)
        size = sum(f.lstat().st_size for f in programs.parent.rglob("*") if f.is_file())
        print(f"{args.target}: environment of {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
