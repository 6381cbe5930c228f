import torch
from torch import nn

from diffkit.benchmarking.flops import count
from diffkit.benchmarking.workload import network_call, sampling_copy, training_run
from diffkit.nn.attention import SelfAttention


def closed_form(network, call):
    """FLOPs of convolutions and linear layers, and of attention, by the shapes that they put out, layer by layer."""
    layers, attention = {}, 0

    def note(name, module):
        def hook(_, inputs, output):
            nonlocal attention
            if isinstance(module, nn.Conv2d):
                layers[name] = 2 * output.numel() * module.weight[0].numel()
            elif isinstance(module, nn.Linear):
                layers[name] = 2 * output.numel() * module.in_features
            else:
                n, channels, height, width = output.shape
                attention += 4 * n * (height * width) ** 2 * channels

        return module.register_forward_hook(hook)

    counted = nn.Conv2d | nn.Linear | SelfAttention
    hooks = [note(name, module) for name, module in network.named_modules() if isinstance(module, counted)]
    call()
    for hook in hooks:
        hook.remove()
    return layers, attention


def test_of_a_call_and_a_step(tiny, cpu):
    recipe = tiny()
    run = training_run(recipe, recipe.data.info(), cpu)
    network = sampling_copy(run)
    call = network_call(recipe, recipe.data.info(), network, cpu)
    layers, attention = closed_form(network, call)
    assert attention > 0
    found = count(call)
    assert found.total == sum(layers.values()) + attention == found.modules[""]
    assert {name: found.modules[name] for name in layers} == layers
    # each weight and each input has a gradient, but the images and the features of the time; attention's backward pass
    # has five products of matrices for two
    inputs = layers["conv_in"] + layers["time_mlp.0"]
    assert count(run.take_step).total == 3 * sum(layers.values()) - inputs + attention * 7 // 2


def test_of_one_product():
    found = count(lambda: torch.ones(3, 5) @ torch.ones(5, 7))
    assert (found.total, found.operations) == (2 * 3 * 5 * 7, {"aten.mm": 210})
