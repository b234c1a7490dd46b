"""Networks at equal lesion sensitivity: rules of size and confidence, tables of drawn counts."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import study
import study_froc
from study_froc import GRID, SIZED
from study_results import SG_NET_PLANS, UNGATED, score_sized

from sgnet_nnunet.evaluation.froc import LesionCounts, SearchGrid, count_lesions
from sgnet_nnunet.inference.plan import labels_of

BASE = f"{UNGATED}__{SG_NET_PLANS}"
LABELS = labels_of({"background": 0, "tumour": 1}, None)


def drawn_rows(rng, run, *, false, seeds=(1, 2, 3), patients=12, found=1.0):
    """Return rows whose sensitivity and false positives fall with the threshold."""
    shares = np.linspace(found, 0.6, len(GRID.thresholds))
    rates = false * np.linspace(4, 0.2, len(GRID.thresholds))
    rows = []
    for seed in seeds:
        for i in range(patients):
            each = np.sort(rng.random(6))  # how sure the network is of each lesion
            rows.append(
                {
                    "run": run, "name": study.name_of(run), "seed": seed, "case": f"p{i}",
                    "dice": rng.random(), "lesions": 6, "false_positives": int(rng.poisson(false)),
                    "found_at": [int((each < share).sum()) for share in shares],
                    "false_positives_at": rng.poisson(rates).tolist(),
                    "diameters_mm": [3.0, 5.0, 8.0, 4.9, 20.0, 6.0], "found_each": [1, 1, 1, 1, 1, 0],
                }
            )  # fmt: skip
    return rows


@pytest.fixture
def frame():
    """Three seeds of the ungated network and of the gated one, one of which has fewer false positives."""
    rng = np.random.default_rng(0)
    rows = drawn_rows(rng, BASE, false=4.0) + drawn_rows(rng, study.GATED, false=1.0)
    return pd.DataFrame(rows)


def false_positives_at(rows, share):
    """Return the mean over seeds of the false positives a case at a sensitivity, by plain interpolation."""
    values = []
    for _, part in rows.groupby("seed"):
        sensitivity = np.array(part["found_at"].tolist()).sum(axis=0)[::-1] / part["lesions"].sum()
        false = np.array(part["false_positives_at"].tolist()).mean(axis=0)[::-1]
        order = np.argsort(false, kind="stable")
        rising = np.maximum.accumulate(sensitivity[order])
        first = np.argmax(rising >= share)
        values.append(np.interp(share, rising[first - 1 : first + 1], false[order][first - 1 : first + 1]))
    return np.mean(values)


def test_a_table_has_the_false_positives_at_each_sensitivity_with_an_interval(frame):
    gated = study_froc.levels_table(frame).set_index("network").loc[study.NAMES[study.GATED]]
    for share in (0.85, 0.9, 0.95):
        value, low, _, high = gated[f"FP at {100 * share:.0f} %"].translate({40: None, 41: None}).split()
        expected = false_positives_at(frame[frame["run"] == study.GATED], share)
        assert float(value) == pytest.approx(expected, abs=0.006)
        assert float(low) < expected < float(high)
    assert gated["seeds"] == "3"


def test_differences_are_those_of_the_levels_and_the_power_is_28_standard_errors(frame):
    (row,) = study_froc.equal_table(frame, BASE).to_dict("records")
    value, low, _, high = row["FP at 90 %"].translate({40: None, 41: None}).split()
    parts = (false_positives_at(frame[frame["run"] == run], 0.9) for run in (study.GATED, BASE))
    assert float(value) == pytest.approx(-np.subtract(*reversed([*parts])), abs=0.006)
    assert float(high) < 0
    (power,) = study_froc.power_table(frame, BASE).to_dict("records")
    half = (float(high) - float(low)) / 2
    assert float(power["FP at 90 %"]) == pytest.approx(2.8 * half / 1.96, rel=0.25)
    (planned,) = study_froc.power_table(frame, BASE, drawn=1000).to_dict("records")
    assert float(planned["FP at 90 %"]) < float(power["FP at 90 %"])


def test_one_seed_and_rows_without_counts_are_said_to_be_so(frame):
    one = (frame["seed"] == 1) & (frame["run"] == BASE)
    old = frame[one].assign(run="old", name="old", found_at=None, false_positives_at=None)
    both = pd.concat([frame, old])
    table = study_froc.levels_table(both).set_index("network")
    assert table.loc["old", "seeds"] == "1 (interval over patients alone)"
    assert table.loc["old", "FP at 90 %"] is None
    assert table.loc["old", "Dice"]
    title, _ = next(study_froc.sections(both, BASE))
    assert "No counts at thresholds were kept of old" in title
    assert study_froc.without_counts(frame) == []


def test_a_sensitivity_that_no_threshold_reaches_has_no_number():
    rows = pd.DataFrame(drawn_rows(np.random.default_rng(0), BASE, false=1.0, found=0.5))
    table = study_froc.levels_table(rows)
    assert table["FP at 95 %"].tolist() == [None]


def test_large_lesions_are_lost_where_the_reference_finds_them(frame):
    frame = frame[frame["case"] < "p2"].copy()  # cases 0, 1, 10 and 11 of three seeds
    gated = frame["run"] == study.GATED
    frame.loc[gated, "found_each"] = frame.loc[gated, "found_each"].map(lambda _: [0, 0, 1, 0, 1, 1])
    assert study_froc.lost_lesions(frame, study.GATED, BASE) == "12 of 36"  # that of 5 mm
    assert study_froc.lost_lesions(frame, BASE, study.GATED) == "12 of 36"  # the sixth
    assert study_froc.lost_lesions(frame.drop(columns="found_each"), BASE, study.GATED) is None


def test_the_curves_of_all_networks_are_drawn(frame, tmp_path):
    assert study_froc.draw_froc(frame, GRID.thresholds, tmp_path / "froc.png")
    assert (tmp_path / "froc.png").stat().st_size > 1000
    assert not study_froc.draw_froc(frame.drop(columns="found_at"), GRID.thresholds, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_rule_is_chosen_without_the_cases_that_it_is_for():
    """Rule 1 has the fewest false positives in all cases but those of group 0, where it finds nothing."""
    found, false = np.full((10, 2, 3), 4), np.full((10, 2, 3), 5)
    false[..., 1], false[..., 2] = 1, 3
    found[::5, :, 1] = 0
    rules = study_froc.cross_fitted_rules(LesionCounts(np.full(10, 4), found, false))
    # Each of the other groups sees group 0, with which rule 1 reaches 75 % only.
    assert rules.tolist() == [1, 2, 2, 2, 2] * 2


def test_a_rule_that_removes_nothing_is_kept_among_equals():
    counts = LesionCounts(np.array([2]), np.full((1, 2, 3), 2), np.full((1, 2, 3), 1))
    assert study_froc.choose_rule(counts) == 0


@pytest.fixture
def predicted(tmp_path, monkeypatch):
    """Six predicted cases: a sure lesion of 64 mm3 and an unsure false one of 2 mm3 in each."""
    grid = SearchGrid(thresholds=(0.5, 0.6), volumes_mm3=(0.0, 10.0), mean_probabilities=(1.0,))
    monkeypatch.setattr(study_froc, "GRID", grid)
    rows = []
    for folder in ("labels", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        tumour = np.zeros((9, 8, 7), dtype=np.float32)  # z, y, x
        tumour[:4, :4, :4] = 0.9
        reference = tumour > 0
        tumour[8, 7, 5:] = 0.7
        counted = count_lesions(
            np.stack([1 - tumour, tumour]), reference, grid=grid, labels=LABELS, spacing=(1.0, 1.0, 1.0)
        )
        for folder, mask in (("labels", reference), ("masks", tumour > 0.5)):
            nib.save(nib.Nifti1Image(mask.T.astype(np.uint8), np.eye(4)), tmp_path / folder / f"p{i}.nii.gz")
        row = study_froc.write_counts(
            tmp_path / f"masks/p{i}_counts.npz", counted, means=np.array([0.9, 0.7])
        )
        assert row == {"found_at": [1, 1], "false_positives_at": [1, 1]}
        rows.append({"run": "run", "seed": 1, "fold": 0, "case": f"p{i}", "parameters": 7} | row)
    return tmp_path, rows


def test_small_unsure_lesions_are_removed_from_the_masks_and_scored_again(predicted):
    folder, rows = predicted
    labels = folder / "labels"
    scored = list(score_sized(rows, labels=labels, predictions=folder / "masks", results=folder / "results"))
    assert [row["rule"] for row in scored] == [[10.0, 1.0]] * 6
    for row in scored:
        assert (row["dice"], row["detected"], row["false_positives"]) == (1, 1, 0)
        assert (row["found_at"], row["false_positives_at"], row["found_each"]) == ([1, 1], [0, 0], [1])
    json.dumps(scored, allow_nan=False)
    (folder / "masks/p3_counts.npz").unlink()
    assert not list(score_sized(rows, labels=labels, predictions=folder / "masks", results=folder))


def test_names_of_sized_runs_say_so():
    assert study.name_of(study.GATED + SIZED) == "SG-Net, hard spatial gates + size and confidence"
    assert study.name_of("elsewhere") == "elsewhere"
