"""Package metadata, and the shims that the wheel places inside nnU-Net's package."""

import os
import runpy
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
os.umask(0o022)  # the modes of files are part of a wheel: the same wherever it is built
VERSION = runpy.run_path(str(ROOT / "sgnet_nnunet" / "__init__.py"))["__version__"]

REQUIRED = [
    "nnunetv2==2.8.*",  # the releases that are tested
    "filelock>=3.12",
    "monai>=1.4",
    "msgspec>=0.19",
    "psutil>=5.9",
    "rich>=13.6",
    "torch>=2.6",  # nnU-Net takes 2.1; before 2.6, weights_only is not safe (CVE-2025-32434)
    "typer>=0.19",
]
"""What converting, planning, training and predicting import; an extra is named where it is missing.

What nnU-Net itself requires (NumPy, SciPy, NiBabel, SimpleITK) is not repeated, unless a later release is
needed; `tests/test_setup.py` checks that the installed nnU-Net requires it. `make lowest` tests the lowest.
"""

EXTRAS = {
    "report": ["jinja2>=3.1.2", "matplotlib>=3.10", "pandas>=2.2", "pillow>=10.1", "scikit-image>=0.22"],
    "phantom": ["nilearn>=0.11"],
    "cpu": ["openvino>=2025.0"],
    "dicom": ["highdicom>=0.28", "pydicom>=3.0.1"],
    "hdbet": ["hd-bet>=2.0.1,<3"],
    "study": [  # Snakemake 9 needs Python 3.11
        "pyyaml>=6.0.1",
        "snakemake>=9.1; python_version >= '3.11'",
        "snakemake-executor-plugin-cluster-generic>=1.0.9; python_version >= '3.11'",
        "snakemake-executor-plugin-slurm>=1.4; python_version >= '3.11'",
        "snakemake-storage-plugin-s3>=0.3.2; python_version >= '3.11'",
    ],
    "kubernetes": ["snakemake-executor-plugin-kubernetes>=0.4", "snakemake-storage-plugin-fs>=1.1"],
    "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.3"],
}
ALL = [requirement for name, extra in EXTRAS.items() if name != "kubernetes" for requirement in extra]
DOCS = ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"]
TEST = [
    *ALL,
    "panoptica>=2.1; python_version < '3.14'",  # no NumPy below 2.3 on 3.14
    *("dcm2niix>=1.0.20220715", "pymeshmetrics>=1.4", "statsmodels>=0.14"),
    *(
        "hypothesis",
        "ipykernel",
        "moto[server]",
        "mypy",
        "nbclient",
        "pandas-stubs",
        "playwright",
        "pytest",
        "pytest-cov",
        "pytest-xdist",
        "ruff",
    ),
    *("types-psutil", "types-PyYAML"),
]


class BuildWithShims(build_py):
    """Add the shims to a wheel, so that pip installs them, lists them and removes them."""

    def run(self) -> None:
        """Run the standard build, then write the shims, unless the install is editable."""
        super().run()
        if not self.editable_mode:
            shims = runpy.run_path(str(ROOT / "sgnet_nnunet" / "plugin" / "shims.py"))
            shims["write_shims"](Path(self.build_lib, "nnunetv2"))
            for path in Path(self.build_lib).rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)


setup(
    name="sgnet-nnunet",
    version=VERSION,
    description="SG-Net (hard spatial gating) for brain metastases on MRI, as a plug-in of nnU-Net v2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["sgnet_nnunet", "sgnet_nnunet.*"]),
    package_data={
        "sgnet_nnunet": [
            *("py.typed", "study/workflow.smk", "models/**/*"),
            *("report/templates/*", "report/viewer_assets/*"),
        ]
    },
    install_requires=REQUIRED,
    extras_require={**EXTRAS, "all": ALL, "docs": DOCS, "test": TEST},
    entry_points={"console_scripts": ["sgnet=sgnet_nnunet.cli.main:main"]},
    cmdclass={"build_py": BuildWithShims},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
