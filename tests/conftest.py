"""Makes the built-in kinds known before any test is collected."""

from diffkit.plugins import builtin
from diffkit.spec import register

register(builtin.register_components(), owner="diffkit")
