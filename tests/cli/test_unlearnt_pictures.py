"""`evaluate` and `compare` use every picture that nothing was learnt from."""

from flawscope import load
from flawscope.datasets import open_dataset
from flawscope.evaluation.evaluation import evaluate


def test_a_split_of_the_data_set_itself_stays(model_path, drawn):
    dataset = open_dataset(drawn, "plate")
    result = evaluate(load(model_path), dataset)
    assert (result.images, result.learnt_from) == (len(dataset.test), 0)
