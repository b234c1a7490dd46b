"""`sgnet link`, `sgnet unlink` and `sgnet doctor`."""

import typer
from rich.markup import escape

from sgnet_nnunet.cli.console import out
from sgnet_nnunet.plug import link as plug_link
from sgnet_nnunet.plug.doctor import examine


def link() -> None:
    """Show nnU-Net this package's classes (after an editable install)."""
    written = plug_link.link(plug_link.nnunet_package())
    for path in written:
        out.print(f"linked {escape(str(path))}", soft_wrap=True)
    if not written:
        out.print("nnU-Net finds everything already.")


def unlink() -> None:
    """Take this package's classes out of nnU-Net's folders again."""
    if plug_link.faces_belong_to_wheel():
        out.print("pip placed these files; `pip uninstall sgnet-nnunet` removes them.")
        return
    removed = plug_link.unlink(plug_link.nnunet_package())
    for path in removed:
        out.print(f"unlinked {escape(str(path))}", soft_wrap=True)
    if not removed:
        out.print("Nothing was linked.")


def doctor() -> None:
    """Check the installation; exit status 1 if anything is wrong."""
    findings = examine()
    for finding in findings:
        mark = "[green]✓[/]" if finding.remedy is None else "[red]✗[/]"
        line = f"{mark} [bold]{finding.subject}[/]: {escape(finding.state)}"
        # Whole lines: a path or a command that the terminal's width cut short is of no use.
        out.print(line, soft_wrap=True, highlight=False)
        if finding.remedy:
            out.print(f"    {escape(finding.remedy)}", soft_wrap=True, highlight=False)
    if any(finding.remedy for finding in findings):
        raise typer.Exit(1)
