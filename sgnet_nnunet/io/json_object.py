"""JSON files that hold one object, such as nnU-Net's descriptions."""

import json
from pathlib import Path
from typing import Any

from sgnet_nnunet.errors import InputFileError


def read_json(path: Path, *, remedy: str = "name the right folder, or copy it again") -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: The file.
        remedy: What the user can do if it cannot be used.

    Raises:
        InputFileError: If the file cannot be read or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror})", remedy) from error
    except ValueError as error:
        raise InputFileError(path, f"is not JSON ({error})", remedy) from error
    if not isinstance(content, dict):
        raise InputFileError(path, "holds no JSON object", remedy)
    return content
