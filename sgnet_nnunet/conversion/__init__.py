"""From the TCIA collection to an nnU-Net data set: T1ce and FLAIR on one grid, split by patient."""

from sgnet_nnunet.conversion.dataset import convert_collection
from sgnet_nnunet.conversion.options import ConversionOptions
from sgnet_nnunet.conversion.result import ConversionResult

__all__ = ["ConversionOptions", "ConversionResult", "convert_collection"]
