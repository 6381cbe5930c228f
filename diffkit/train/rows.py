"""Which images of a batch a process takes, and in which parts they go through its network."""

from __future__ import annotations

from itertools import pairwise

from diffkit.distributed import Workers
from diffkit.errors import Problem, RecipeError
from diffkit.recipe.tables import Recipe


def parts_of_batch(recipe: Recipe, workers: Workers) -> list[range]:
    """Return this process's rows of each batch, in parts that go through the network one after the other.

    No part has more rows than the recipe's `device_batch_size`. Parts are of nearly one size, and as many on every
    process where there are rows for that, as all have about as many rows.

    Raises:
        RecipeError: If there are not rows enough for all processes, or weights lie in parts on them and not all can
            take as many parts: a process with a part more would wait for the others' weights in vain.
    """
    train = recipe.train
    mine, most, fewest = (
        workers.rows(train.batch_size),
        -(-train.batch_size // workers.size),
        train.batch_size // workers.size,
    )
    if fewest == 0:
        message = f"must be at least the number of processes, {workers.size}: it is shared among them"
        raise RecipeError(recipe.name, [Problem("train.batch_size", message, train.batch_size)])
    count = -(-most // (train.device_batch_size or most))
    if train.shard == "full" and fewest < count:
        message = (
            f"with train.shard = 'full', all processes must take as many parts of at most {train.device_batch_size} "
            f"images of a batch, and some would take {count}, others {fewest}: let the number of processes, "
            f"{workers.size}, divide it, or raise train.device_batch_size"
        )
        raise RecipeError(recipe.name, [Problem("train.batch_size", message, train.batch_size)])
    cuts = [mine.start + number * len(mine) // count for number in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(cuts) if start < stop]
