"""Makes the built-in kinds known before any test is collected, and keeps torch from fighting over the cores."""

import torch

from diffkit.plugins import builtin
from diffkit.spec import register

register(builtin.register_components(), owner="diffkit")
torch.set_num_threads(1)
