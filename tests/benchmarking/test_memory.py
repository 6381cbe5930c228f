import pytest

from diffkit.benchmarking.memory import can_measure, peak_memory
from diffkit.pipeline import build_network


def test_weights_gradients_states_and_average_are_in_it(tiny, cpu):
    """In numbers of 4 bytes a parameter: five for training, one for sampling. Maps and code are small next to them."""
    if not can_measure(cpu):
        pytest.skip("only Linux says how much memory a process had")
    recipe = tiny("model.channels=96", "train.batch_size=1", "model.resnet.dropout=0.0")
    parameters = sum(parameter.numel() for parameter in build_network(recipe, recipe.data.info()).parameters())
    found = peak_memory(recipe, [], ["diffkit"], cpu, threads=1)["diffkit"]
    assert 5 * 4 * parameters < found["training"] < 8 * 4 * parameters + 2**25
    assert 4 * parameters < found["sampling"] < 3 * 4 * parameters + 2**25
