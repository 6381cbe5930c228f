import pytest
import torch

from diffkit.cli.common import pick_device
from diffkit.errors import UserError


def test_auto_is_there():
    torch.empty(1, device=pick_device("auto"))


def test_the_cpu():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "meta", "privateuseone", "cuda:99"])
def test_devices_that_are_not_there(name):
    with pytest.raises(UserError) as caught:
        pick_device(name)
    assert str(caught.value).startswith(f"device '{name}': ")
    assert "\n" not in str(caught.value)
