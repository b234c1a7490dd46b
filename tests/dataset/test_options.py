"""Options that nnU-Net could not work with are refused at once."""

import pickle

import pytest

from sgnet_nnunet.dataset.options import ConversionOptions
from sgnet_nnunet.errors import SGNetError


def test_folder_is_named_as_nnunet_wants_it():
    assert ConversionOptions().folder_name == "Dataset501_BrainMetsLung"
    assert ConversionOptions(dataset_id=7, name="Mets").folder_name == "Dataset007_Mets"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset_id": 0}, "data set id 0 is not between 1 and 999"),
        ({"dataset_id": 1000}, "1000"),
        ({"name": "a/b"}, "letters, digits"),
        ({"name": ""}, "letters, digits"),
        ({"workers": 0}, "give 1 or more"),
    ],
)
def test_impossible_options_are_refused(wrong: dict, message: str):
    with pytest.raises(SGNetError, match=message):
        ConversionOptions(**wrong)


def test_options_cross_process_borders():
    options = ConversionOptions(target="regions")
    assert pickle.loads(pickle.dumps(options)) == options
