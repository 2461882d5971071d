"""EfficientAD (Batzner, Heckler and König, WACV 2024)."""

from flawscope.methods.efficientad.config import PRESETS, Config
from flawscope.methods.method import Command, Method, Option, deferred

METHOD = Method(
    name="efficientad",
    paper="Batzner, Heckler and König, WACV 2024",
    config=Config,
    presets=PRESETS,
    create=deferred("flawscope.methods.efficientad.model:create"),
    rebuild=deferred("flawscope.methods.efficientad.model:Model.rebuild"),
    fit=deferred("flawscope.methods.efficientad.fit:fit"),
    learns_in_steps=True,
    holds_out=True,
    calibrated=("quantiles",),
    options=(
        Option("--teacher", "FILE", "another teacher; see `flawscope distill`"),
        Option(
            "--natural", "FOLDER|generated|none", "pictures of anything else, which must stay unknown to it"
        ),
    ),
    commands=(Command("distill", "make a teacher for EfficientAD", "flawscope.cli.distill"),),
)
