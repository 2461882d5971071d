"""The same as flawscope_job.sh, in Python."""

from pathlib import Path

import flawscope
from flawscope.export.export import export
from flawscope.results.folder import Pictures

model = flawscope.fit("data/toothbrush", size=256)
model.save("part.safetensors")
data = flawscope.open_dataset("data/toothbrush")
pictures = Pictures(Path("results"), data.root)
print(flawscope.evaluate(model, data, take=pictures.take).metrics)
pictures.finish("toothbrush")
export("part.safetensors", "part.xml")
print(flawscope.load("part.xml").predict("data/toothbrush/test/defective/000.png"))
