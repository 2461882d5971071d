"""The networks against the paper's tables (methods of Batzner et al., appendix A.1)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flawscope.methods.efficientad import WIDTHS
from flawscope.methods.efficientad.networks import (
    Autoencoder,
    decoder_sizes,
    normalised,
    pdn,
    pdn_grid,
)

# kernel and outputs (convolutions); kernel and stride (pools)
TABLE = {
    "s": ["4 128", "pool 2 2", "4 256", "pool 2 2", "3 256", "4 384"],
    "m": ["4 256", "pool 2 2", "4 512", "pool 2 2", "1 512", "3 512", "4 384", "1 384"],
}


def multiplications(size: str) -> int:
    """Of a PDN without padding and with 152 outputs, as the packaged ones, for 256 pixels a side."""
    found: list[int] = []
    network = pdn(size, 152)
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(
                lambda conv, _, out: found.append(conv.weight.numel() * out[0, 0].numel())
            )
    network(torch.zeros(1, 3, 256, 256))
    return sum(found)


def test_the_smallest_one_takes_a_fifth_of_the_operations():
    assert 0.16 < multiplications("xs") / multiplications("s") < 0.22
    state = {name: value.shape for name, value in pdn("s", width=WIDTHS["xs"]).state_dict().items()}
    assert {name: value.shape for name, value in pdn("xs").state_dict().items()} == state


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


# --------------------------------------------------------------------------------------------- autoencoder


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


# ------------------------------------------------------------------------------------------ input, weights


def test_input_is_normalised_with_imagenets_numbers():
    images = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    assert float(normalised(images).abs().max()) < 1e-6
    torch.testing.assert_close(
        normalised(images + torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)), torch.ones(1, 3, 2, 2)
    )
