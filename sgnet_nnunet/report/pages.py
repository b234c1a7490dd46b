"""Pages from templates."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sgnet_nnunet.report.names import breakable


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
