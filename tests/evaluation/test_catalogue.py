from sgnet_nnunet.evaluation.catalogue import CASE_METRICS, PRESETS, measure


def test_every_case_gets_every_metric_by_name(make_pair):
    lesion = [((2, 2, 2), (3, 3, 3))]
    values = measure(make_pair(predicted=lesion, reference=lesion))
    assert list(values) == [metric.name for metric in CASE_METRICS]
    assert values["dice"] == 1


def test_presets_are_measured_by_name(make_pair):
    lesion = [((2, 2, 2), (3, 3, 3))]
    pair = make_pair(predicted=lesion, reference=lesion)
    assert measure(pair, PRESETS["brats2023"]) == {"brats2023_dice": 1, "brats2023_hd95_mm": 0}
    assert measure(pair, PRESETS["brats2026"]).keys() == {
        "brats2026_small_f1",
        "brats2026_large_dice",
        "brats2026_large_nsd_1mm",
        "brats2026_large_hd95_mm",
    }
