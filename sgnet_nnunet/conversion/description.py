"""dataset.json: what nnU-Net and a later reader must know about the data set."""

from typing import Any

from sgnet_nnunet import __version__
from sgnet_nnunet.conversion.options import ConversionOptions
from sgnet_nnunet.conversion.record import FILE_ENDING, provenance
from sgnet_nnunet.conversion.targets import TARGETS


def dataset_json(options: ConversionOptions, *, training_cases: int) -> dict[str, Any]:
    """Return the content of dataset.json.

    The first entries are nnU-Net's (documentation/dataset_format.md); `NibabelIOWithReorient` turns
    every case to RAS when nnU-Net reads it, so the files keep their orientation.
    """
    return {
        "channel_names": {"0": "T1ce", "1": "FLAIR"},
        **TARGETS[options.target].description,
        "numTraining": training_cases,
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        "name": options.name,
        "description": "Brain metastases of lung cancer, T1ce and FLAIR on the T1ce grid "
        "(TCIA collection Brain-Mets-Lung-MRI-Path-Segs)",
        "reference": "https://doi.org/10.7937/k0sm-y874",
        "licence": "CC BY 4.0 or CC BY-NC 4.0: sources disagree, check at TCIA",
        "converted_by": f"sgnet_nnunet {__version__}",
        "conversion": provenance(options),
    }
