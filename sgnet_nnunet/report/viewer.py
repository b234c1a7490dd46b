"""Pages from templates."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from sgnet_nnunet.evaluation.results import Results
from sgnet_nnunet.files import write_text
from sgnet_nnunet.report.figures import REFERENCE, REFERENCE_COLOUR, breakable, rgb


def render(template: str, **values: object) -> str:
    """Return a page made from a file of `templates/`; every value is escaped for HTML."""
    environment = Environment(
        loader=PackageLoader("sgnet_nnunet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    page: Any = environment.get_template(template).render(**values)
    return str(page)


ASSETS = ("niivue.umd.js", "LICENSE.txt")
"""Package data that the page needs, and the licence that goes with it."""


def write_viewer(results: Results, folder: Path, *, colours: dict[str, str]) -> None:
    """Write `index.html` and NiiVue to a folder; the cases are written by `viewer_case`.

    Args:
        results: The models and the cases to choose from.
        folder: Made if missing.
        colours: Each model's colour.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ASSETS:
        with as_file(files("sgnet_nnunet.report") / "viewer_assets" / name) as asset:
            shutil.copyfile(asset, folder / name)
    names = sorted({case.name for case in results.cases})
    masks = [(REFERENCE, REFERENCE_COLOUR), *((model.name, colours[model.name]) for model in results.models)]
    page = render(
        "viewer.html",
        dataset=results.dataset,
        cases=[{"name": name, "script": f"cases/{quote(name)}.js"} for name in names],
        masks=[{"name": name, "colour": colour, "rgb": rgb(colour)} for name, colour in masks],
    )
    write_text(folder / "index.html", page)
