"""`sgnet demo`, `sgnet doctor`, `sgnet link` and `sgnet unlink`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from sgnet_nnunet.cli.console import out, progress_bar, say
from sgnet_nnunet.errors import printable


def link() -> None:
    """Register the trainers, planners and normalisations with nnU-Net (after an editable install)."""
    from sgnet_nnunet.plugin import link as registration  # noqa: PLC0415

    written = registration.link(registration.nnunet_package())
    for path in written:
        say(f"linked {path}")
    if not written:
        say("nnU-Net finds every class already.")


def unlink() -> None:
    """Remove the files of `sgnet link` from nnU-Net's folders."""
    from sgnet_nnunet.plugin import link as registration  # noqa: PLC0415

    if registration.shims_belong_to_wheel():
        say("pip placed these files; `pip uninstall sgnet-nnunet` removes them.")
        return
    removed = registration.unlink(registration.nnunet_package())
    for path in removed:
        say(f"unlinked {path}")
    if not removed:
        say("Nothing was linked.")


def doctor() -> None:
    """Check the installation, and print the command that fixes each problem.

    Exit status 1 if there is a problem.
    """
    from sgnet_nnunet.plugin.doctor import examine  # noqa: PLC0415

    groups = examine()
    for group in groups:
        mark = ("✗", "red") if group.problems else ("✓", "green")
        lines = [(f"{one.subject}: {one.state}", one.remedy) for one in group.problems]
        for state, remedy in lines or [(group.summary, None)]:
            # Lines are not wrapped, so that paths and commands can be copied.
            line = Text.assemble(mark, " ", (group.name, "bold"), f": {printable(state)}")
            out.print(line, soft_wrap=True, highlight=False)
            if remedy:
                say(f"    {remedy}")
    if any(group.problems for group in groups):
        raise typer.Exit(1)


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to work in.")] = Path("demo_output"),
    device: Annotated[str, typer.Option("-device", metavar="NAME", help="cpu, cuda or mps.")] = "cpu",
    epochs: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="Training epochs.")] = 10,
    iters: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="Batches an epoch.")] = 16,
) -> None:
    """Run the whole workflow on phantoms: convert, plan, train, predict, evaluate, draw."""
    from sgnet_nnunet.demo import DemoPlan, run_demo  # noqa: PLC0415

    with progress_bar() as progress:
        tasks = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done)

        result = run_demo(folder, DemoPlan(epochs=epochs, iters=iters, device=device), report=report)
    models = {"the model in the package, synthetic": result.shipped, "the model trained here": result.scores}
    for title, scores in models.items():
        table = Table("held-out case", "Dice", "precision", "recall", "HD95 (mm)", title=title)
        for name, dice, precision, recall, hd95 in scores.itertuples():
            case = printable(str(name))
            table.add_row(case, f"{dice:.3f}", f"{precision:.3f}", f"{recall:.3f}", f"{hd95:.1f}")
        out.print(table)
    say(f"picture: {result.overlay}")
