"""Phantom patients: realistic synthetic brain metastases in the collection's own layout on disk."""

from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.dataset import write_phantoms

__all__ = ["PhantomConfig", "write_phantoms"]
