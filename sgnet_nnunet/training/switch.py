"""Settings of a training that an environment variable turns on or off."""

import os
from collections.abc import Mapping

from sgnet_nnunet.errors import SGNetError

CHOICES = {"0": False, "1": True}


def read_switch(
    name: str, meaning: str, *, default: bool, environment: Mapping[str, str] = os.environ
) -> bool:
    """Read a variable that is 1 or 0.

    Args:
        name: The variable.
        meaning: What 1 says, for the error.
        default: What it is where it is not set, or empty.
        environment: Where to read it.

    Raises:
        SGNetError: If it is anything else.
    """
    given = environment.get(name, "")
    if not given:
        return default
    if given not in CHOICES:
        msg = f"{name}={given!r}: must be 1 ({meaning}) or 0; set it again or unset it"
        raise SGNetError(msg)
    return CHOICES[given]
