"""RePaint: filling a hole in an image with a model that was not trained for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.generate import initial
from diffkit.diffusion.posterior import transition
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise
from diffkit.diffusion.samplers.ddpm import ancestral_step


def inpaint(
    denoise: Denoise,
    levels: Sequence[Level],
    images: Tensor,
    hole: Tensor,
    noise: Noise,
    *,
    jump: int | None = None,
    repetitions: int = 10,
) -> Tensor:
    """Fill a hole in images (Lugmayr et al. 2022, "RePaint", algorithm 1).

    A step from t to s is an ancestral one in the hole, and ``alpha_s x0 + sigma_s z`` of the known image outside of it
    (their eq. 8, at the level s: line 5 of the algorithm writes the variance for the deviation, and t's for s's). What
    comes into the hole so knows of the image only as of x_t. So each `jump` steps are taken `repetitions` times: in
    between, noise leads back up by q(x_t | x_s), which is one draw for any number of steps, and what is in the hole and
    around it grows together (their section 4.2 and appendix B).

    Where the noisiest level has some signal, the known part of the start has it too.

    Args:
        denoise: The model.
        levels: The levels to visit, strictly falling; the last is the clean end.
        images: Images ``[N, C, H, W]`` in [-1, 1]. What is in the hole has no influence.
        hole: What to paint anew: booleans that can be expanded to the images' shape, such as ``[1, 1, H, W]``.
        noise: Draws standard normal noise of the images' shape.
        jump: Steps that are taken again at once; counted from the clean end, so that the noisiest ones may be fewer.
            By default a 25th of all steps, as in the paper, whose 250 steps have jumps of 10.
        repetitions: How often each step is taken in all. With 1, the hole is merely filled along the way.

    Returns:
        The images, outside of the hole exactly those given, in the type of the noise.
    """
    z = noise()
    images = images.to(z)
    first = levels[0]
    x = torch.where(hole, initial(first, _always(z)), first.alpha * images + first.sigma * z)
    for start, end in walk(len(levels) - 1, jump, repetitions):
        t, s = levels[start], levels[end]
        z = noise()
        if start < end:  # a pixel is in the hole or outside of it, so one z serves both
            x = torch.where(hole, ancestral_step(denoise, x, t, s, _always(z)), s.alpha * images + s.sigma * z)
        else:
            alpha, variance = transition(s, t)
            x = alpha * x + variance**0.5 * z
    return x


def walk(steps: int, jump: int | None, repetitions: int) -> Iterator[tuple[int, int]]:
    """Yield the moves of RePaint from level to level, as places in the list of levels.

    Down it is one step at a time; up, the whole jump. The last step, to the clean end, is taken once.

    Args:
        steps: The number of steps.
        jump: As in `inpaint`.
        repetitions: As in `inpaint`.
    """
    jump = jump or max(1, steps // 25)
    end = (steps - 1) % jump or min(jump, steps - 1)
    start = 0
    while start < steps - 1:
        for repetition in range(repetitions):
            if repetition > 0:
                yield end, start
            yield from ((place, place + 1) for place in range(start, end))
        start, end = end, end + jump
    yield steps - 1, steps


def _always(z: Tensor) -> Noise:
    return lambda: z
