"""SG-Net for nnU-Net v2: hard spatial gating for small brain metastases on MRI.

The public names are imported when they are first used, since PyTorch and nnU-Net take seconds:

>>> from sgnet_nnunet import SGNet
>>> network = SGNet(input_channels=2, num_classes=1, gate="none")
>>> sum(parameter.numel() for parameter in network.parameters())
668673
"""

TYPE_CHECKING = False  # as in `typing`, whose import is a time in which Ctrl-C ends in a traceback
if TYPE_CHECKING:
    from sgnet_nnunet.dataset.convert import convert
    from sgnet_nnunet.evaluation.comparison import compare
    from sgnet_nnunet.evaluation.measurement import evaluate
    from sgnet_nnunet.evaluation.tuning import tune
    from sgnet_nnunet.inference.predictor import predict
    from sgnet_nnunet.networks.sgnet import SGNet
    from sgnet_nnunet.planning.planner import SGNetPlanner
    from sgnet_nnunet.report.page import write_report
    from sgnet_nnunet.training.sgnet_trainer import SGNetTrainer

__version__ = "0.1.0"

_MODULES = {
    "SGNet": "networks.sgnet",
    "SGNetPlanner": "planning.planner",
    "SGNetTrainer": "training.sgnet_trainer",
    "compare": "evaluation.comparison",
    "convert": "dataset.convert",
    "evaluate": "evaluation.measurement",
    "predict": "inference.predictor",
    "tune": "evaluation.tuning",
    "write_report": "report.page",
}

__all__ = [
    "SGNet",
    "SGNetPlanner",
    "SGNetTrainer",
    "compare",
    "convert",
    "evaluate",
    "predict",
    "tune",
    "write_report",
]


def __getattr__(name: str) -> object:
    """Import a public name on its first use."""
    from importlib import import_module  # noqa: PLC0415

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, those not yet imported among them."""
    return sorted({*globals(), *__all__})
