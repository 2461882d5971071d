"""Backbones: same features as timm's own, whatever is folded, and weights from wherever they come."""

import subprocess
import sys

import pytest


def test_timm_imports_beside_a_broken_torchvision():
    """torchvision's default build beside a CPU torch: its operators are unknown and importing it fails."""
    code = (
        "import sys\n"
        "try:\n"
        "    import torchvision\n"
        "    sys.exit(7)\n"
        "except RuntimeError as error:\n"
        "    assert 'torchvision::' in str(error)\n"
        "for name in [m for m in sys.modules if m.split('.')[0] == 'torchvision']:\n"
        "    del sys.modules[name]\n"
        "from flawscope.methods.features.backbone import import_timm\n"
        "print(import_timm().is_model('resnet18'))\n"
        "import torchvision.transforms"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 7:
        pytest.skip("torchvision fits torch here: nothing to install")
    assert done.stdout.strip() == "True", done.stderr
    assert done.returncode == 0, done.stderr
