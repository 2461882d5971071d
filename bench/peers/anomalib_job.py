"""The same job with anomalib, as its documentation shows the parts. `engine.test` writes the heat maps.

Exported without options, the model takes two pictures at a time, and the inferencer gives it one.
"""

from anomalib.data import MVTecAD
from anomalib.deploy import ExportType, OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import Patchcore

if __name__ == "__main__":
    data = MVTecAD(root="data", category="toothbrush")
    model = Patchcore(backbone="tf_efficientnet_lite0", layers=["blocks.2", "blocks.4"])
    engine = Engine(default_root_dir="results")
    engine.fit(model=model, datamodule=data)
    print(engine.test(model=model, datamodule=data))
    options = {"input_size": (512, 512), "onnx_kwargs": {"dynamic_shapes": None}}
    path = engine.export(model=model, export_type=ExportType.OPENVINO, **options)
    found = OpenVINOInferencer(path, device="CPU").predict("data/toothbrush/test/defective/000.png")
    print(found.pred_score, found.pred_label)
