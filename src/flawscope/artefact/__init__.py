"""Files that flawscope writes and reads: models, certificates, joint models. Torch-free."""

from __future__ import annotations

from flawscope._lazy import lazy_names

# Names for other packages, imported when they are first used (station/library-names.md)
TYPE_CHECKING = False
if TYPE_CHECKING:
    from flawscope.artefact.files import checkpoint_path as checkpoint_path
    from flawscope.artefact.model_facts import ModelFacts as ModelFacts
    from flawscope.artefact.model_file import Manifest as Manifest

__getattr__ = lazy_names(
    __name__, {"Manifest": "model_file", "ModelFacts": "model_facts", "checkpoint_path": "files"}
)
