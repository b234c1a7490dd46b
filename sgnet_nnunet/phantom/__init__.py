"""Phantom patients: realistic synthetic brain metastases in the collection's own layout on disk."""

from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.population import write_phantoms

__all__ = ["PhantomConfig", "write_phantoms"]
