"""`sgnet predict`: which way the named models go, decided before anything slow is imported."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sgnet_nnunet.engine.exported import is_exported
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.options import PredictionOptions


def predict_images(
    images: Path,
    output: Path,
    *,
    model_folders: Sequence[Path],
    operating_point: str = "auto",
    options: PredictionOptions,
    on_start: Callable[[int], object] = lambda _: None,
    on_done: Callable[[], object] = lambda: None,
) -> int:
    """Predict every case of a folder with trained models or an exported one; return how many there are.

    Args:
        images: Folder of images, named as for nnU-Net.
        output: Folder to write the masks to.
        model_folders: Trained models, or one that `sgnet export` has written.
        operating_point: A file of `sgnet tune`; `none`; or `auto` for the one in the model's folder.
        options: How to predict.
        on_start: Called with the number of cases that will be predicted.
        on_done: Called after each case.

    Raises:
        InputFileError: If a file is missing or damaged.
        SGNetError: If the models, or what the options ask of them, cannot be had.
    """
    # PyTorch and nnU-Net take seconds to import, so each way imports its own.
    if any(is_exported(folder) for folder in model_folders):
        if len(model_folders) > 1:
            raise SGNetError("-m: an exported model is predicted alone; name one, or trained models only")
        from sgnet_nnunet.inference.exported import predict_exported  # noqa: PLC0415

        return predict_exported(
            images,
            output,
            model_folder=model_folders[0],
            operating_point=operating_point,
            options=options,
            on_start=on_start,
            on_done=on_done,
        )
    if len(model_folders) > 1:
        if operating_point not in {"auto", "none"}:
            raise SGNetError(
                f"--operating-point {operating_point}: was tuned for one model; leave it out with several -m"
            )
        from sgnet_nnunet.inference.ensemble import predict_with_models  # noqa: PLC0415

        return predict_with_models(
            images, output, model_folders=model_folders, options=options, on_start=on_start, on_done=on_done
        )
    from sgnet_nnunet.inference.find import find_operating_point  # noqa: PLC0415
    from sgnet_nnunet.inference.predict import predict_folder  # noqa: PLC0415

    return predict_folder(
        images,
        output,
        model_folder=model_folders[0],
        operating_point=find_operating_point(operating_point, model_folders[0]),
        options=options,
        on_start=on_start,
        on_done=on_done,
    )
