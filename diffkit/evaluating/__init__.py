"""How good a model is: samples and real images, their features, and all metrics at once."""

from diffkit.distributed import Workers
from diffkit.evaluating.describe import about_model, about_sampling, digest_of, identity_of
from diffkit.evaluating.measures import Evaluation, Measures
from diffkit.evaluating.model import Given, evaluate_model, sample_and_see
from diffkit.evaluating.read import read_images
from diffkit.evaluating.reference import Part, Reference, evaluate

__all__ = [
    "Evaluation",
    "Given",
    "Measures",
    "Part",
    "Reference",
    "Workers",
    "about_model",
    "about_sampling",
    "digest_of",
    "evaluate",
    "evaluate_model",
    "identity_of",
    "read_images",
    "sample_and_see",
]
