"""PRN, prototypical residual networks (Zhang et al., CVPR 2023)."""

from flawscope.methods.method import Command, Method, Option, deferred
from flawscope.methods.prnet.config import PRESETS, Config

METHOD = Method(
    name="prnet",
    paper="Zhang et al., CVPR 2023",
    config=Config,
    presets=PRESETS,
    create=deferred("flawscope.methods.prnet.model:create"),
    rebuild=deferred("flawscope.methods.prnet.model:Model.rebuild"),
    fit=deferred("flawscope.methods.prnet.fit:fit"),
    learns_in_steps=True,
    holds_out=True,
    takes_seen_defects=True,
    options=(
        Option("--textures", "FOLDER|generated", "what simulated defects are made of"),
        Option("--prototypes", "FILE", "made by `flawscope prototypes`"),
    ),
    commands=(
        Command(
            "prototypes",
            "find PRN's prototypes of good pictures, to fit with them later",
            "flawscope.cli.prototypes",
        ),
    ),
)
