"""`inference.json`, which grows part by part, and the Markdown that is made of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference_speed.markdown import to_markdown
from sgnet_nnunet.files import write_text

PARTS = ("network", "agreement", "patient", "batch", "growth", "memory")


def read_results(folder: Path) -> dict[str, Any]:
    """Return what has been measured so far, by part."""
    path = folder / "inference.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def add_part(folder: Path, part: str, figures: Mapping[str, Any]) -> None:
    """Write a part's figures beside those of the other parts, and the Markdown anew."""
    found = read_results(folder) | {part: dict(figures)}
    document = {name: found[name] for name in PARTS if name in found}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "inference.json", json.dumps(document, indent=1) + "\n")
    write_text(folder / "inference.md", to_markdown(document))
