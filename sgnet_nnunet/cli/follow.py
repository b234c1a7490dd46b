"""`sgnet follow`."""

from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.cli.console import err, progress_bar, say


def follow(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...", help="Folders of sgnet segment, one a visit, in the order of time."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", metavar="FOLDER", help="Folder to write to.")],
    smallest_change: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="MM",
            help="Change of a lesion's diameter that counts as growth; half a voxel by default.",
        ),
    ] = None,
    same_patient: Annotated[
        bool, typer.Option("--same-patient", help="Do not compare DICOM ids and brains: it is one patient.")
    ] = False,
) -> None:
    """Follow a patient's lesions over visits: new, grown, shrunk, gone; volumes, diameters, RANO-BM.

    Research use only.
    """
    # SimpleITK and SciPy take a second to import.
    from sgnet_nnunet.files import check_output_folder  # noqa: PLC0415
    from sgnet_nnunet.patient import follow_up  # noqa: PLC0415

    check_output_folder(output)
    with progress_bar() as progress:
        task = progress.add_task("visits", total=len(folders))
        found = follow_up.follow(
            folders,
            smallest_change_mm=smallest_change,
            same_patient=same_patient,
            on_done=lambda: progress.advance(task),
        )
    for warning in found.warnings:
        say(f"warning: {warning}", console=err)
    follow_up.write_changes(output, found)
    for visit, each in enumerate(found.responses, start=2):
        statuses = [lesion[visit - 1].status for lesion in found.lesions]
        counts = ", ".join(f"{statuses.count(name)} {name}" for name in follow_up.CHANGES if name in statuses)
        say(f"visit {visit}: {counts or 'no lesions'}; RANO-BM {each.response} ({each.reason})")
    say(follow_up.RANO_BM)
    say(f"{output}: {follow_up.CHANGES_MD}, .csv, .json, .png")
