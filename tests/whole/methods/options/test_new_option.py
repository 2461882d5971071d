"""A further option of a fit is written at three places, a further score at two: tried on a copy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import flawscope
from small_network import SMALL_NETWORK

SOURCE = Path(flawscope.__file__).parent
# A correction of pictures is a file of its own, as each stage
GAMMA = """
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Gamma:
    exponent: float

    def __call__(self, picture, divisor, name):
        values = np.asarray(picture, np.float32) / divisor
        return np.rint(divisor * values**self.exponent).astype(np.asarray(picture).dtype)

    def mask(self, mask):
        return mask

    def restored(self, drawn, placed, fill):
        return drawn, placed

    def to_dict(self):
        return asdict(self)

    @classmethod
    def from_dict(cls, values):
        return cls(**values)
"""
RECORD = """
    gamma: str | float | None = option(
        None,
        "exponent of the grey levels",
        record=FitOption(
            group=VIEWS,
            help="exponent of the grey levels",
            kept_by_update=True,
            changes_input=True,
            benchmark="all cells",
            apart=("channels",),
        ),
        stored=lambda model: getattr(model.manifest.preprocess.gamma, "exponent", None),
    )
    roi: """
IMPORT = "from flawscope.views.gamma import Gamma\n"
FIELD = "    undistort: Undistortion | None = None\n"
OPTION = {  # file: what is replaced there
    "methods/options/arguments.py": {"\n    roi: ": RECORD},
    "views/preprocess.py": {
        '{"undistort": Undistortion}': '{"undistort": Undistortion, "gamma": Gamma}',
        FIELD: FIELD + "    gamma: Gamma | None = None\n",
        "from flawscope.views.undistort": IMPORT + "from flawscope.views.undistort",
    },
    "fitting/preparation.py": {
        "Preprocess.of_levels(surveyed.levels, channels=channels)": "replace("
        "Preprocess.of_levels(surveyed.levels, channels=channels), "
        "gamma=None if self.how.gamma is None else Gamma(float(self.how.gamma)))",
        "from flawscope.views.preprocess": IMPORT + "from flawscope.views.preprocess",
    },
}
SCORE = {
    "methods/patchcore/record.py": {
        'Literal["reweighted", "map"]': 'Literal["reweighted", "map", "seventh"]'
    },
    "methods/patchcore/scores.py": {
        '"reweighted": Reweighted()': '"reweighted": Reweighted(), "seventh": Reweighted()'
    },
}
MOST_FOR_OPTION, MOST_FOR_SCORE = 3, 2
# What the options of a model must do, in a process that has the copy
PROGRAM = """
import contextlib, io, sys
from pathlib import Path

import numpy as np
from PIL import Image

import flawscope
from flawscope.artefact import model_file
from flawscope.cli import main
from flawscope.fitting.stored_options import refit_options

folder, network = Path(sys.argv[1]), {"backbone": sys.argv[2], "weights": sys.argv[3]}
assert str(folder) in flawscope.__file__, flawscope.__file__
pictures = folder / "pictures"
pictures.mkdir()
rng = np.random.default_rng(0)
for k in range(8):
    Image.fromarray(rng.integers(60, 200, (64, 64, 3)).astype(np.uint8)).save(pictures / f"{k}.png")
own = [word for name, value in network.items() for word in ("--set", f"{name}={value}")]
words = ["fit", "--data", pictures, "--good", "all", "--size", "64", "--device", "cpu", "--no-check", *own]


def call(*more):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = main([str(word) for word in (*words, *more)])
        except SystemExit as ended:
            code = ended.code
    return code or 0, printed.getvalue()


assert "--gamma" in call("--help")[1]
fits, words = words, ["benchmark"]
assert "--gamma" in call("--help")[1]
words = fits
model, other = folder / "model.safetensors", folder / "other.safetensors"
assert call("--gamma", "0.5", "--set", "score=seventh", "--out", model)[0] == 0
old = model_file.read(model)
assert old.manifest.preprocess.gamma.exponent == 0.5
assert old.manifest.config["score"] == "seventh"
options = refit_options(old)
assert options["gamma"] == 0.5, "a training anew has it"
data = flawscope.open_dataset(pictures, good="all")
again = flawscope.fit(data, check=False, **options | {"device": "cpu"})
np.testing.assert_array_equal(again.calibration.scores, old.manifest.calibration.scores)
config = folder / "fit.yaml"
config.write_text("gamma: 0.5")
assert call("--config", config, "--set", "score=seventh", "--out", other)[0] == 0, "a file has it"
assert model_file.read(other).manifest.calibration == old.manifest.calibration
plain = folder / "plain.safetensors"
assert call("--set", "score=seventh", "--out", plain)[0] == 0
assert model_file.read(plain).manifest.calibration != old.manifest.calibration, "it does something"
words = ["fit", "--data", pictures, "--good", "all"]
code, said = call("--update", model, "--gamma", "0.3", "--out", other)
assert (code, "leave out --gamma" in said) == (2, True), said
code, said = call("--gamma", "0.3", "--channels", "all", "--out", other)
assert (code, "--gamma does not go with --channels" in said) == (2, True), said
"""


def edit(root, changes):
    """Makes the changes; returns the files that were changed."""
    for name, replaced in changes.items():
        path = root / name
        text = path.read_text(encoding="utf-8")
        for old, new in replaced.items():
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    return [*changes]


def test_a_further_option_has_three_places_and_a_further_score_two(tmp_path):
    copy = tmp_path / "src/flawscope"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "views/gamma.py").write_text(GAMMA, encoding="utf-8")
    changed = edit(copy, OPTION)
    assert len(changed) <= MOST_FOR_OPTION
    assert len(edit(copy, SCORE)) <= MOST_FOR_SCORE
    environment = {**os.environ, "PYTHONPATH": str(copy.parent)}
    call = [sys.executable, "-c", PROGRAM, str(tmp_path), *SMALL_NETWORK.values()]
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
