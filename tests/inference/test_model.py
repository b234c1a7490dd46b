import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.inference.trained_model import load_predictor


def test_folder_without_the_weights_is_named(tmp_path):
    with pytest.raises(InputFileError, match=r"fold_3/checkpoint_best\.pth: there is no such file"):
        load_predictor(tmp_path, fold="3", checkpoint="checkpoint_best.pth")
