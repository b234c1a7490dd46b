"""dataset.json says what nnU-Net and a later reader must know."""

import json

import pytest

from sgnet_nnunet.dataset.convert import dataset_json
from sgnet_nnunet.dataset.options import ConversionOptions


@pytest.mark.parametrize("target", ["whole", "core", "regions"])
def test_what_nnunet_reads_is_there(target: str):
    description = dataset_json(ConversionOptions(target=target), training_cases=7)
    assert description["channel_names"] == {"0": "T1ce", "1": "FLAIR"}
    assert description["labels"]["background"] == 0
    assert description["numTraining"] == 7
    assert description["file_ending"] == ".nii.gz"
    assert description["overwrite_image_reader_writer"] == "NibabelIOWithReorient"
    assert ("regions_class_order" in description) == (target == "regions")
    assert json.loads(json.dumps(description)) == description


def test_origin_licence_and_options_are_on_record():
    description = dataset_json(
        ConversionOptions(name="Mets", register="rigid", split="paper"), training_cases=1
    )
    assert description["name"] == "Mets"
    assert "10.7937/k0sm-y874" in description["reference"]
    assert description["licence"].startswith("CC BY")
    assert description["converted_by"].startswith("sgnet_nnunet ")
    assert description["conversion"].items() >= {"register": "rigid", "split": "paper"}.items()


def test_how_fast_and_how_strictly_it_was_made_does_not_change_it():
    hasty = dataset_json(ConversionOptions(workers=1, strict=True), training_cases=1)
    assert hasty == dataset_json(ConversionOptions(workers=8), training_cases=1)
