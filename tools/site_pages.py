"""Hook of mkdocs: pages of the site that are files elsewhere in the repository, and the API pages.

Markdown files link to each other as files of the repository, so that the links also work on GitHub. Here they
are rewritten to the pages of the site. The API has one page per package, made from the docstrings.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sgnet_nnunet"
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE",
    "SECURITY.md": "security.md",
    **{
        path: path
        for path in (
            *("containers/Dockerfile", "containers/sgnet.def"),
            *("notebooks/new_patient.ipynb", "notebooks/t4_training.ipynb"),
        )
    },
}
FOLDERS = {"docs/": "", "benchmarks/results/": "results/"}
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the API pages to the navigation."""
    nav: list[Any] = config["nav"]
    nav.append({"API": [{name: f"api/{name}.md"} for name in api_pages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not below docs/."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    for path in sorted((ROOT / "benchmarks/results").iterdir()):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    for name, content in api_pages().items():
        files.append(File.generated(config, f"api/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite links between files of the repository to links between pages."""
    here = page.file.src_uri
    if here.startswith("api/"):
        return markdown
    folder = posixpath.dirname(repository_path(here))

    def rewrite(match: re.Match[str]) -> str:
        target = site_path(posixpath.normpath(posixpath.join(folder, match[1])))
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    return LINK.sub(rewrite, markdown)


def api_pages() -> dict[str, str]:
    """Return the Markdown of each API page, by the name of its package: one section per module."""
    packages = {"sgnet_nnunet": PACKAGE} | {
        f"sgnet_nnunet.{path.parent.name}": path.parent for path in sorted(PACKAGE.glob("*/__init__.py"))
    }
    return {
        name: "\n\n".join(
            [f"# {name}", *(f"::: {name}.{path.stem}" for path in sorted(folder.glob("[a-z]*.py")))]
        )
        for name, folder in packages.items()
    }


def site_path(path: str) -> str:
    """Return the path in the site of a file of the repository; of any other, its own."""
    for folder, target in FOLDERS.items():
        if path.startswith(folder):
            return target + path.removeprefix(folder)
    return PAGES.get(path, path)


def repository_path(path: str) -> str:
    """Return the path in the repository of a page of the site."""
    sources = {target: source for source, target in PAGES.items()}
    if path.startswith("results/"):
        return f"benchmarks/{path}"
    return sources.get(path, f"docs/{path}")


class DoctestFences(griffe.Extension):
    """Renders interactive examples as code wherever they are in a docstring, not only under "Examples"."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Put a fence around each block of lines that starts with a prompt."""
        if obj.docstring and ">>> " in obj.docstring.value:
            blocks = obj.docstring.value.split("\n\n")
            fenced = [f"```pycon\n{b}\n```" if b.lstrip().startswith(">>> ") else b for b in blocks]
            obj.docstring.value = "\n\n".join(fenced)
