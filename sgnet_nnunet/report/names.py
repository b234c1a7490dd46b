"""Long names of models and cases, broken where a reader would."""

from markupsafe import Markup


def parts_of(name: str) -> list[str]:
    """Return a name cut before its capitals, and after underscores, hyphens and spaces."""
    parts = [""]
    for before, letter in zip(" " + name, name, strict=False):
        if (letter.isupper() and before.islower()) or (before in "_- " and letter not in "_- "):
            parts.append("")
        parts[-1] += letter
    return [part for part in parts if part]


def lines_of(name: str, *, width: int) -> str:
    """Return a name in lines of at most `width` letters, one part at least in each."""
    lines = [""]
    for part in parts_of(name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def breakable(name: str) -> Markup:
    """Return a name, escaped for HTML, that may be broken between its parts."""
    return Markup("<wbr>").join(parts_of(name))  # escapes the parts
