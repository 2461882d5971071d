"""python predict.py MODEL.onnx PICTURE...: a line of JSON each, with numpy, Pillow and ONNX Runtime alone."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
manifest = json.loads(session.get_modelmeta().custom_metadata_map["flawscope"])
how, good = manifest["preprocess"], manifest["calibration"]
if manifest["format"] != 2 or set(how) != {*("size", "keep_aspect", "crop", "white_level", "marks_padding")}:
    sys.exit(f"{sys.argv[1]}: made by a flawscope that this example does not know")
ordered, maxima = np.sort(good["scores"]), np.sort(good["map_maxima"])
rank = min(max(1, int(good["rate"] * (len(ordered) + 1) + 1e-9)), len(ordered))
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode[0] in "IF":
        sys.exit(f"{path}: has more than 8 bits, which this example does not know")
    paper = Image.new("RGB", image.size, "white")  # transparent pixels show white
    paper.paste(image.convert("RGB"), mask=image.convert("RGBA").getchannel("A"))
    whole, size = np.array([image.height, image.width]), np.array(how["size"])
    scale = size / whole
    if how["keep_aspect"]:
        scale[:] = max(scale) if how["crop"] else min(scale)
    inner = np.array(how["crop"] or np.clip(np.round(whole * scale), 1, size).astype(int))
    corner = np.maximum(0, (whole - inner / scale) / 2) if how["crop"] else np.zeros(2)
    (y0, x0), (y1, x1), (height, width) = corner, whole - corner, inner
    # The width first: Pillow 13 would take the height first in tall pictures, and round otherwise
    across = paper.resize((width, whole[0]), Image.Resampling.BILINEAR, (x0, 0, x1, whole[0]))
    pixels = across.resize((width, height), Image.Resampling.BILINEAR, (0, y0, width, y1))
    around = [(n // 2, n - n // 2) for n in (how["crop"] or size) - inner] + [(0, 0)]
    images = np.divide(np.pad(pixels, around, "edge").transpose(2, 0, 1)[None], 255, dtype=np.float32)
    padding = np.pad(np.zeros((height, width), bool), around[:2], constant_values=how["marks_padding"])
    images = np.where(padding, -1 - images, images)  # padding is marked
    (score,), (map_,) = session.run(["scores", "maps"], {"images": images})
    p_value, marked = (1 + np.sum(ordered >= score)) / (len(ordered) + 1), np.mean(map_ > maxima[-rank])
    found = {"path": path, "score": float(score), "is_anomalous": not score <= ordered[-rank]}
    print(json.dumps({**found, "p_value": float(p_value), "share_marked": float(marked)}))
