"""A network that stands for a large one: timm's smallest EfficientNet, 84,000 numbers in 16 bits.

A model fitted with it takes a third of the time, through the same classes. Tests of features, of exports' speed
and of figures take the real ones. `python tests/small_network.py` made it in minutes: its stages 2 and 3 were
taught those of EfficientNet-Lite0 (Apache-2.0) on drawn pictures.
"""

from pathlib import Path

FILE = Path(__file__).parent / "fixtures" / "small_network.safetensors"
SMALL_NETWORK = {"backbone": "test_efficientnet", "weights": str(FILE)}
SET_SMALL = [word for name, value in SMALL_NETWORK.items() for word in ("--set", f"{name}={value}")]


def main(steps=1500, batch=8, size=96):
    import numpy as np
    import torch
    from safetensors.torch import save_file
    from torch import nn
    from torch.nn.functional import normalize

    from flawscope.methods.features.backbone import import_timm, load_backbone
    from flawscope.synthesis.demo.dataset import CATEGORIES, draw_picture

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    drawn = []
    for number in range(240):
        category = list(CATEGORIES)[number % 2]
        defect = rng.choice([None, *CATEGORIES[category].defects])
        drawn.append(draw_picture(category, rng, defect, 0.0, size=2 * size)[0])
    pictures = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255
    teacher, _ = load_backbone("tf_efficientnet_lite0", (2, 3), (size, size))
    timm = import_timm()
    whole = timm.create_model("test_efficientnet", pretrained=False)
    student = timm.create_model("test_efficientnet", pretrained=False, features_only=True, out_indices=(2, 3))
    heads = nn.ModuleList([nn.Conv2d(32, 40, 1), nn.Conv2d(48, 112, 1)])
    mean, std = torch.tensor(student.default_cfg["mean"]), torch.tensor(student.default_cfg["std"])
    adam = torch.optim.Adam([*student.parameters(), *heads.parameters()], 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 3e-3, steps)
    for step in range(steps):
        rows = torch.randint(len(pictures), (batch,))
        y, x = torch.randint(size, (2,)).tolist()
        images = pictures[rows, :, y : y + size, x : x + size]
        images = images[:, torch.randperm(3)] if step % 2 else images
        with torch.inference_mode():
            targets = [normalize(each) for each in teacher(images)]
        found = student((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        loss = sum(
            (normalize(head(own)) - target).square().sum(1).mean()
            for head, own, target in zip(heads, found, targets, strict=True)
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        if step % 100 == 0:
            print(step, float(loss), flush=True)
    named, state = whole.state_dict(), student.state_dict()
    kept = {name: value for name, value in state.items() if name in named and "num_batches" not in name}
    save_file({name: value.half().contiguous() for name, value in kept.items()}, FILE)


if __name__ == "__main__":
    main()
