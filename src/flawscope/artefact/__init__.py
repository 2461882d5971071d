"""The files that flawscope writes and reads: models, checkpoints, certificates. Torch-free."""

from __future__ import annotations

from flawscope import lazy_names

# Names for other packages, imported when they are first used (docs/api.md)
TYPE_CHECKING = False
if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest as Manifest
    from flawscope.artefact.state_file import checkpoint_path as checkpoint_path

__getattr__ = lazy_names(__name__, {"Manifest": "model_file", "checkpoint_path": "state_file"})
