# Fit on good pictures, evaluate the test folder, write heat maps, export, predict from the exported file.
flawscope fit --data data/toothbrush --size 256 --out part.safetensors
flawscope evaluate part.safetensors --data data/toothbrush --out results
flawscope export part.safetensors --format openvino --out part.xml
flawscope predict part.xml data/toothbrush/test/defective/000.png
