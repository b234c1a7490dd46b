"""A page to scroll through every case in 3D, without a server and without a network.

A browser lets no page opened from a disk read the files beside it, but it runs their scripts: so
each case's volumes lie, as compressed NIfTI in base64, in a script that is loaded when the case is
chosen.
"""

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from urllib.parse import quote

from sgnet_nnunet.io.atomic import write_text
from sgnet_nnunet.report.pages import render
from sgnet_nnunet.report.palette import REFERENCE, TRUTH_COLOUR, rgb
from sgnet_nnunet.results.case import Results

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
    masks = [(REFERENCE, TRUTH_COLOUR), *((model.name, colours[model.name]) for model in results.models)]
    page = render(
        "viewer.html",
        dataset=results.dataset,
        cases=[{"name": name, "script": f"cases/{quote(name)}.js"} for name in names],
        masks=[{"name": name, "colour": colour, "rgb": rgb(colour)} for name, colour in masks],
    )
    write_text(folder / "index.html", page)
