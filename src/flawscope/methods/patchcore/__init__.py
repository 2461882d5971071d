"""PatchCore (Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022)."""

from flawscope.methods.method import Method, Option, deferred
from flawscope.methods.patchcore.config import PRESETS, Config

METHOD = Method(
    name="patchcore",
    paper="Roth et al., CVPR 2022",
    config=Config,
    presets=PRESETS,
    create=deferred("flawscope.methods.patchcore.model:create"),
    rebuild=deferred("flawscope.methods.patchcore.model:Model.rebuild"),
    fit=deferred("flawscope.methods.patchcore.fit:fit"),
    finds_suspects=True,
    extends=True,
    fits_in_parts=True,
    peak=deferred("flawscope.methods.patchcore.selection:peak"),
    choose=deferred("flawscope.methods.patchcore.choosing:choose"),
    options=(
        Option(
            "--positions",
            "shared|each|auto",
            "a memory bank that all tiles share (default), or one for each place, where parts lie still",
        ),
        Option("--augment", "none|turn|mirror|all|auto", "copies of the good pictures in the memory bank"),
    ),
    operators=deferred("flawscope.methods.patchcore.onnx_operators:translations"),
)
