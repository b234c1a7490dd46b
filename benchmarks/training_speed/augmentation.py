"""What a worker's patches cost: loading, and each transform of the augmentation."""

import statistics
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from time import perf_counter
from typing import Any

import numpy as np
import torch

from training_speed.contestants import Contestant, make_loader, make_trainer


class LoaderClock:
    """Times a loader's batches, and its transforms apart.

    Args:
        loader: A loader of nnU-Net; its transforms are wrapped in place.
    """

    def __init__(self, loader: Any) -> None:  # noqa: ANN401
        self.loader = loader
        self.spent: defaultdict[str, float] = defaultdict(float)
        for transform in loader.transforms.transforms:
            name = type(getattr(transform, "transform", transform)).__name__
            # Not `__call__`, which Python looks up in the class.
            for part in ("look_ahead", "get_parameters", "apply"):
                if hasattr(transform, part):
                    setattr(transform, part, self._timed(name, getattr(transform, part)))

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            start = perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[name] += perf_counter() - start

        return timed

    def measure(self, batches: int, seed: int) -> dict[str, float]:
        """Return milliseconds a patch: `total`, `loading` and each transform."""
        np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loaders draw from it
        torch.manual_seed(seed)
        self.spent.clear()
        start = perf_counter()
        for _ in range(batches):
            self.loader.generate_train_batch()
        total = perf_counter() - start
        scale = 1000 / (batches * self.loader.batch_size)
        transforms = {name: value * scale for name, value in self.spent.items()}
        return {
            "total": total * scale,
            "loading": (total - sum(self.spent.values())) * scale,
            **dict(sorted(transforms.items(), key=lambda item: -item[1])),
        }


def measure_augmentation(
    contestants: tuple[Contestant, ...], *, rounds: int, batches: int
) -> list[dict[str, Any]]:
    """Time one worker, one thread, as nnU-Net's workers run; loaders in turn, one round warms up.

    The stock loader of the first contestant's plan comes last, from the same random numbers: what our
    loading gains.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trainers = [make_trainer(contestant, torch.device("cpu")) for contestant in contestants]
    loaders = {c.name: make_loader(t) for c, t in zip(contestants, trainers, strict=True)}
    loaders[f"{contestants[0].name}, nnU-Net's loading"] = make_loader(trainers[0], stock=True)
    clocks = {name: LoaderClock(loader) for name, loader in loaders.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in clocks}
    for number in range(rounds + 1):
        for name, clock in clocks.items():
            found[name].append(clock.measure(batches, seed=number))
    torch.set_num_threads(threads)
    return [
        {
            "name": name,
            "batch_size": int(clocks[name].loader.batch_size),
            "milliseconds": _medians(rows[1:]),
        }
        for name, rows in found.items()
    ]


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each key; a transform that was not drawn in a round took none of its time."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: statistics.median(row.get(key, 0.0) for row in rows) for key in keys}
