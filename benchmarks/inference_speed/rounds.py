"""Several ways of doing one thing, measured in turn, and the arithmetic of what they took."""

import logging
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

logger = logging.getLogger("inference")

Result = TypeVar("Result")


def in_turn(ways: Mapping[str, Callable[[], Result]], rounds: Mapping[str, int]) -> dict[str, list[Result]]:
    """Return what each way gives in each of its rounds; in a round every way has its turn.

    Args:
        ways: The ways, by name.
        rounds: How many rounds each way takes part in.
    """
    found: dict[str, list[Result]] = {name: [] for name in ways}
    for number in range(max(rounds.values())):
        for name, run in ways.items():
            if number < rounds[name]:
                logger.info("round %d: %s", number + 1, name)
                found[name].append(run())
    return found


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Return how many times the median of `slower` is that of `faster`."""
    return statistics.median(slower) / statistics.median(faster)


def spread(values: Iterable[float]) -> float:
    """Return the largest value over the smallest."""
    known = list(values)
    return max(known) / min(known)
