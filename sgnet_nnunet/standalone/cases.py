"""The cases in nnU-Net's folder of images."""

import re
from pathlib import Path

from sgnet_nnunet.errors import InputFileError


def find_cases(images: Path, *, file_ending: str, channels: int) -> dict[str, list[Path]]:
    """Return the files of each case of nnU-Net's image folder, one a channel, by the case's name.

    Raises:
        InputFileError: If the folder has no case, or a case has too few channels or too many.
    """
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(file_ending)}")
    found: dict[str, dict[int, Path]] = {}
    for path in images.iterdir() if images.is_dir() else ():
        if match := pattern.fullmatch(path.name):
            found.setdefault(match[1], {})[int(match[2])] = path
    if not found:
        raise InputFileError(
            images, f"holds no file *_0000{file_ending}", "name a folder like nnU-Net's imagesTs"
        )
    remedy = f"the model takes {channels} channels a case"
    for name, files in found.items():
        for channel in range(channels):
            if channel not in files:
                path = images / f"{name}_{channel:04d}{file_ending}"
                raise InputFileError(path, "there is no such file", remedy)
        if len(files) > channels:
            raise InputFileError(files[max(files)], "is one channel too many", remedy)
    return {name: [files[channel] for channel in range(channels)] for name, files in sorted(found.items())}
