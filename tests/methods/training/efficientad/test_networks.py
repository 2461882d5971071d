"""The networks against the paper's tables (Batzner et al., appendix A.1); and the teacher's file: what is
written comes back, and nothing else is believed."""

import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flawscope.errors import InputError
from flawscope.methods.training.efficientad.model import create
from flawscope.methods.training.efficientad.networks import (
    Autoencoder,
    decoder_sizes,
    packaged_teacher,
    pdn,
    pdn_grid,
    read_teacher,
    write_teacher,
)
from flawscope.methods.training.efficientad.record import WIDTHS, Config
from flawscope.methods.training.state_file import read_checkpoint, write_state

# kernel and outputs (convolutions); kernel and stride (pools)
TABLE = {
    "s": ["4 128", "pool 2 2", "4 256", "pool 2 2", "3 256", "4 384"],
    "m": ["4 256", "pool 2 2", "4 512", "pool 2 2", "1 512", "3 512", "4 384", "1 384"],
}


@pytest.mark.parametrize("size", ["s", "m"])
def test_layers_are_the_tables(size):
    found = []
    layers = list(pdn(size))
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            assert layer.stride == (1, 1)
            found.append(f"{layer.kernel_size[0]} {layer.out_channels}")
            assert isinstance(following, nn.ReLU) == (following is not None)  # no activation at the end
        elif isinstance(layer, nn.AvgPool2d):
            found.append(f"pool {layer.kernel_size} {layer.stride}")
    assert found == TABLE[size]


@pytest.mark.parametrize("size", ["xs", "s", "m"])
def test_an_output_sees_33_pixels_and_no_other(size):
    torch.manual_seed(0)  # of other weights all channels of an output may be 0
    network = pdn(size, 4)
    images = torch.rand(1, 3, 61, 61, requires_grad=True)
    outputs = network(images)
    assert tuple(outputs.shape[-2:]) == pdn_grid((61, 61)) == (8, 8)
    outputs[0, :, 3, 5].square().sum().backward()
    seen = images.grad[0].abs().sum(0) > 0
    rows, columns = (torch.nonzero(seen.any(axis))[:, 0].tolist() for axis in (1, 0))
    assert (rows[0], rows[-1], len(rows)) == (12, 44, 33)
    assert (columns[0], columns[-1], len(columns)) == (20, 52, 33)


def test_the_decoder_is_the_table_at_256_pixels():
    assert decoder_sizes(256) == [3, 8, 15, 32, 63, 127]
    sides = []
    network = Autoencoder().eval()
    for layer in [*network.encoder, *network.decoder, network.last]:
        layer.register_forward_hook(lambda _, inputs, output: sides.append(output.shape[-1]))
    with torch.no_grad():
        network(torch.zeros(1, 3, 256, 256))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(1.096e6, abs=500)
    encoder = sides[: len(network.encoder)]
    assert encoder == [128, 128, 64, 64, 32, 32, 16, 16, 8, 8, 1]
    assert sides[len(encoder) :] == [4, 9, 16, 33, 64, 128, 56]


@pytest.mark.parametrize("size", [(256, 256), (257, 300), (512, 512), (1024, 256), (256, 319)])
def test_the_autoencoder_fits_the_pdn_at_any_size(size):
    for border in (0, 4, 16):
        network = Autoencoder(8, border=border).to("meta")
        output = network(torch.zeros(2, 3, *size, device="meta"))
        height, width = (side + 2 * border for side in size)
        assert output.shape == (2, 8, *pdn_grid((height, width)))


FACTS = {"size": "s", "channels": 384, "backbone": {"name": "b", "origin": "o", "licence": "l"}, "steps": 3}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    torch.manual_seed(0)
    write_teacher(path, pdn("s").state_dict(), FACTS)
    return path


def test_what_is_written_comes_back(written):
    torch.manual_seed(0)
    expected = pdn("s").state_dict()
    state, facts = read_teacher(written)
    pdn("s").load_state_dict(state)
    for name, values in expected.items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], values.half().float())
    assert {k: facts[k] for k in FACTS} == FACTS
    assert re.fullmatch(r"file teacher\.safetensors sha256 [0-9a-f]{64}", facts["origin"])
    assert written.stat().st_size < 2 * 2.7e6 + 4000  # fp16


def nelsons(size):
    """The published layout: numbered layers."""
    return nn.Sequential(*pdn(size))


@pytest.mark.parametrize("size", ["s", "m"])
def test_published_checkpoints_are_read(size, tmp_path):
    """Numbered keys as nelson1425's, or named ones."""
    network = nelsons(size)
    assert next(iter(network.state_dict())) == "0.weight"
    for name, state in (("n.pth", network.state_dict()), ("a.pt", pdn(size).state_dict())):
        torch.save(state, tmp_path / name)
        found, facts = read_teacher(tmp_path / name)
        assert facts["size"] == size
        assert facts["origin"].startswith(f"file {name} sha256 ")
        for a, b in zip(found.values(), state.values(), strict=True):
            assert torch.equal(a, b)
        assert list(found) == list(pdn(size).state_dict())


def test_pickles_with_code_are_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "a.pth").write_bytes(pickle.dumps(Trap()))
    torch.save(nelsons("s"), tmp_path / "b.pth")  # a whole module, as the authors' training saves it
    torch.save({"trap": Trap()}, tmp_path / "c.pth")
    for name in "abc":
        with pytest.raises(InputError, match="holds more than tensors, or is damaged"):
            read_teacher(tmp_path / f"{name}.pth")
    assert not (tmp_path / "sprung").exists()


def test_other_networks_are_told(tmp_path):
    torch.save(pdn("s", 768).state_dict(), tmp_path / "student.pth")
    with pytest.raises(InputError, match="not those of a PDN-S or PDN-M with 384 channels"):
        read_teacher(tmp_path / "student.pth")
    for facts in ({**FACTS, "size": "m"}, {**FACTS, "size": "x"}, {}):
        write_state(tmp_path / "t.safetensors", pdn("s").state_dict(), "teacher", facts)
        with pytest.raises(InputError, match="its tensors are not those of a teacher"):
            read_teacher(tmp_path / "t.safetensors")
    state = pdn("s").state_dict()
    state["conv3.bias"][7] = torch.nan
    write_teacher(tmp_path / "t.safetensors", state, FACTS)
    with pytest.raises(InputError, match="weights are not finite"):
        read_teacher(tmp_path / "t.safetensors")


@pytest.mark.parametrize("place", [3, 60, -1, -100_000])
def test_a_changed_byte_and_a_file_cut_short_are_noticed(written, tmp_path, place):
    body, path = bytearray(written.read_bytes()), tmp_path / "t.safetensors"
    body[place] ^= 1
    for damaged in (body, body[:place]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"cannot use teacher .*t\.safetensors: .*(damaged|teacher)"):
            read_teacher(path)


@pytest.mark.parametrize("size", ["xs", "s"])
def test_the_packaged_teachers_are_those_of_their_card(size):
    path = packaged_teacher(size)
    card = Path(__file__).parents[4] / "bench" / "teacher" / "README.md"
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card.read_text(encoding="utf-8")
    state, facts = read_teacher(path)
    assert facts["size"] == size
    assert facts["loss"] < 0.6  # the mean picture gets 1
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in pdn(size).state_dict().items()}


def test_a_setting_names_a_packaged_teacher():
    model, origin = create(Config(network="xs"))
    assert (model.config.network, origin["name"]) == ("xs", "PDN-XS teacher from tf_efficientnet_lite0")
    assert model.teacher.conv1.out_channels == WIDTHS["xs"]
    assert create(Config())[0].config.network == "s"
    with pytest.raises(InputError, match="no teacher PDN-M comes with flawscope"):
        create(Config(network="m"))


def test_other_kinds_and_newer_formats_are_told(tmp_path, monkeypatch):
    path = tmp_path / "t.safetensors"
    write_state(path, {"a": np.ones(2, np.float32)}, "checkpoint", {})
    assert read_checkpoint(path)[0]["a"].tolist() == [1.0, 1.0]
    with pytest.raises(InputError, match="it is a checkpoint, not a teacher"):
        read_teacher(path)
    monkeypatch.setattr("flawscope.methods.training.state_file.FORMAT", 2)
    write_teacher(path, pdn("s").state_dict(), FACTS)
    monkeypatch.setattr("flawscope.methods.training.state_file.FORMAT", 1)
    with pytest.raises(InputError, match="format 2, and this one reads up to 1: upgrade"):
        read_teacher(path)


def test_own_files_may_be_large_if_they_are_what_they_say(tmp_path, monkeypatch):
    """A checkpoint of a wide backbone has some GiB; a teacher never has."""
    monkeypatch.setattr("flawscope.methods.training.state_file.MAX_TEACHER_BYTES", 100)
    path = tmp_path / "t.safetensors"
    write_state(path, {"a": np.ones(99, np.float32), "b": np.ones(1, np.float32)}, "checkpoint", {})
    assert read_checkpoint(path)[0]["a"].tolist() == [1.0] * 99
    whole = path.read_bytes()
    for body in (whole + bytes(8), whole[:-4], bytes(500), b"\xff" * 500):
        path.write_bytes(body)
        with pytest.raises(InputError, match="far too large"):
            read_checkpoint(path)
    write_teacher(path, pdn("s").state_dict(), FACTS)
    with pytest.raises(InputError, match="far too large"):
        read_teacher(path)
