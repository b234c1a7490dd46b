from pathlib import Path

import numpy as np
import pytest

from sgnet_nnunet.nifti import Volume
from sgnet_nnunet.phantom.anatomy import Anatomy, draw_anatomy
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.population import draw_ids, draw_patient, patient_rng, write_phantoms

COARSE = PhantomConfig(
    t1ce_in_plane=(2.0, 2.2),
    t1ce_slice=(2.0, 2.4),
    flair_in_plane=(1.8, 2.0),
    flair_slice=(5.0, 6.0),
    vessels=20,
)


@pytest.fixture(scope="session")
def coarse_config() -> PhantomConfig:
    """Grids of few voxels, for tests of what does not depend on resolution."""
    return COARSE


@pytest.fixture(scope="session")
def coarse_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coarse") / "phantoms"
    write_phantoms(root, patients=2, seed=5, config=COARSE)
    return root


@pytest.fixture(scope="session")
def anatomy() -> Anatomy:
    """Of larger voxels than by default, a third as many."""
    config = PhantomConfig(t1ce_in_plane=(1.4, 1.4), t1ce_slice=(1.5, 1.5))
    return draw_anatomy(np.random.default_rng(11), config)


@pytest.fixture(scope="session")
def patient() -> dict[str, Volume]:
    rng = patient_rng(7, 0)
    draw_ids(rng)
    grids = {"t1ce_in_plane": (1.2, 1.2), "t1ce_slice": (1.2, 1.2), "flair_in_plane": (0.9, 0.95)}
    return draw_patient(rng, PhantomConfig(**grids))
