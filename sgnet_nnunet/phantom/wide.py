"""The wide population: anatomy, tumours and scans drawn far beyond the real range (domain randomisation).

As SynthSeg does (Billot et al. 2023, arXiv 2107.09559), so that a network trained on synthetic scans alone
does not depend on the contrast and the quality of a certain scanner.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sgnet_nnunet.phantom.config import Artefacts, Levels, Pathology, PhantomConfig, Range

WIDE_LEVELS: Levels = {
    "gm": {"t1ce": (0.6, 1.1), "flair": (0.9, 1.8)},
    "csf": {"t1ce": (0.05, 0.6), "flair": (0.02, 0.6)},
    "detail": {"t1ce": (0.2, 1.3), "flair": (-0.3, 0.3)},
    "texture": {"t1ce": (0.005, 0.06), "flair": (0.01, 0.08)},
    "cortex": {"t1ce": (0.0, 0.08), "flair": (0.02, 0.18)},
    "rim": {"t1ce": (-0.3, 0.35), "flair": (-0.45, 0.3)},
    "enhancing": {"t1ce": (0.65, 2.8), "flair": (0.9, 2.8)},
    "necrosis": {"t1ce": (0.2, 1.3), "flair": (0.1, 2.8)},
    "oedema": {"t1ce": (0.55, 1.0), "flair": (1.5, 3.0)},
    "vessel": {"t1ce": (0.1, 4.0), "flair": (0.1, 1.4)},
    "plexus": {"t1ce": (0.5, 3.0), "flair": (0.3, 2.4)},
    "meninges": {"t1ce": (0.6, 3.0), "flair": (0.5, 2.8)},
    "white_matter_lesion": {"t1ce": (0.6, 1.0), "flair": (1.2, 2.4)},
}
"""Signal of each tissue; `CALIBRATED_LEVELS` describes it. Cores enhance from not at all to very brightly."""

_CHANCE_OF_LARGE = 0.65
"""Share of patients with few large tumours; the others have many small ones."""


@dataclass(frozen=True, kw_only=True)
class WidePopulation:
    """Ranges of the parameters of phantoms: `draw` returns the `PhantomConfig` of one patient.

    A `Range` is that of one uniform draw for each patient, a chance the probability that a patient has
    something. `scanner` has further arguments of `PhantomConfig`, the same for all patients.
    """

    calibrated: float = 0.0  # share of patients that are of the default, calibrated population
    levels: Levels = field(default_factory=lambda: WIDE_LEVELS)
    large_diameter: Range = (14.0, 48.0)  # median diameter of few large tumours, mm
    small_diameter: Range = (4.0, 14.0)  # median diameter of many small ones, mm
    oedema_reach: Range = (4.0, 32.0)  # median reach from a lesion of 10 mm, mm
    oedema_edge: Range = (1.0, 7.0)  # mm
    oedema_ragged: Range = (0.1, 1.0)
    core_texture: Range = (0.02, 0.25)
    bias: Range = (0.02, 0.35)
    noise: Range = (0.004, 0.08)
    curve: Range = (0.0, 0.4)
    chance: float = 0.2  # of each fault of a scan
    stroke: float = 0.2  # chance of cavities
    confluent: float = 0.3  # chance of confluent white-matter disease
    limbic: Range = (0.0, 0.35)
    badly_stripped: float = 0.4  # chance of each fault of skull stripping
    displaced: float = 0.7  # sigma of FLAIR's displacement along each axis, mm
    scanner: Mapping[str, Any] = field(
        default_factory=lambda: {
            "t1ce_in_plane": (1.0, 1.15),
            "t1ce_slice": (1.0, 1.3),
            "t1ce_blur": (0.3, 0.8),
            "flair_in_plane": (0.8, 1.2),
            "flair_slice": (1.0, 6.0),
            "stripped": (0.0, 3.0),
            "atrophy": (-0.6, 1.0),
            "brain_scale": (0.84, 1.0),
        }
    )

    def draw(self, rng: np.random.Generator) -> PhantomConfig:
        """Draw the distributions of one patient."""
        if rng.uniform() < self.calibrated:
            return PhantomConfig()
        return PhantomConfig(
            **self._tumours(rng),
            **self.scanner,
            levels=self.levels,
            follows_dose=False,
            bias=self.bias,
            noise=self.noise,
            vessels=int(rng.integers(60, 400)),
            white_matter_lesions=float(rng.uniform(0, 30)),
            pathology=self._pathology(rng),
            artefacts=self._artefacts(rng),
        )

    def _tumours(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw how many tumours of which kinds and sizes."""
        large = rng.uniform() < _CHANCE_OF_LARGE
        rim = rng.uniform(0.5, 6.0)
        return {
            "diameter_median": float(rng.uniform(*(self.large_diameter if large else self.small_diameter))),
            "diameter_sigma": 0.4,
            "diameter_limits": (2.5, 60.0),
            "extra_lesions_median": 0.5 if large else 2.5,
            "extra_lesions_sigma": 0.7,
            "ring_fraction": float(rng.uniform(0.2, 1)),
            "rim_thickness": (rim, rim + 0.5),
            "core_texture": float(rng.uniform(*self.core_texture)),
            "oedema_fraction": 0.8,
            "oedema_reach": float(rng.uniform(*self.oedema_reach)),
            "oedema_sigma": 0.5,
            "oedema_edge": float(rng.uniform(*self.oedema_edge)),
            "oedema_ragged": float(rng.uniform(*self.oedema_ragged)),
            "max_core_fraction": 0.07,
            "max_tumour_fraction": 0.16,
            "ventricle_closeness": 0.6,
            "least_depth": 0.25,
        }

    def _pathology(self, rng: np.random.Generator) -> Pathology:
        """Draw a patient's other damage."""
        return Pathology(
            cavities=int(rng.integers(1, 4)) if rng.uniform() < self.stroke else 0,
            gliosis=float(rng.uniform(0.5, 4)),
            confluent=float(rng.uniform(2, 8)) if rng.uniform() < self.confluent else 0.0,
            limbic=float(rng.uniform(*self.limbic)),
        )

    def _artefacts(self, rng: np.random.Generator) -> Artefacts:
        """Draw the faults of a patient's scans."""
        missing, dura = rng.uniform(size=2) < self.badly_stripped
        return Artefacts(
            missing=float(rng.uniform(1, 6)) if missing else 0.0,
            dura=float(rng.uniform(1, 4)) if dura else 0.0,
            curve=float(rng.uniform(*self.curve)),
            chance=self.chance,
            displaced=self.displaced,
        )


WIDE = WidePopulation()
"""The wide population, `sgnet phantom --population wide`."""
