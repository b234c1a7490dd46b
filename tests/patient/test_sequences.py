"""T1ce and FLAIR are told by tags as clinical scanners write them."""

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from sgnet_nnunet.patient.sequences import channel_of, contrast_of, is_processed, time_of


def header(description: str = "", **tags) -> Dataset:
    dataset = Dataset()
    dataset.Modality, dataset.SeriesDescription = "MR", description
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


DESCRIPTIONS: dict[str | None, tuple[str, ...]] = {
    "t1ce": (
        "t1_mprage_sag_post_gd",
        "AX T1 POST",
        "T1 +C",
        "Ax T1 FSPGR+C",
        "SAG 3D T1 MPRAGE POST GAD",
        "T1ce",
        "t1_mpr_ns_sag_KM",
        "T1W_3D_TFE_Gd",
        "BRAVO post contrast",
        "T1_VIBE_CE",
        "AX T1 C+",
        "T1 FLAIR POST",
        "t1_space_sag_p2_iso Dotarem",
        "T1W-TSE-Contrast",
        "T1 MPRAGE (enhanced)",
        "t1-gd",
        "AX 3D T1 GADO",
    ),
    "flair": (
        "t2_tirm_tra_dark-fluid",
        "AX FLAIR",
        "T2 FLAIR",
        "FLAIR 3D SAG",
        "Ax T2 FLAIR FS +C",
        "t2_space_flair",
        "T2W_FLAIR",
        "3D CUBE T2 FLAIR",
        "t2_spc_darkfluid_sag",
        "FLAIR post",
        "FLAIR without contrast",
    ),
    None: (
        "t1_mprage_sag",
        "AX T1 PRE",
        "T1 without contrast",
        "T1 w/o",
        "t1_se_nativ",
        "T1 non-contrast",
        "",
        "t2_tse_tra",
        "T2* GRE",
        "DWI",
        "ep2d_diff_tra",
        "ADC",
        "SWI",
        "localizer post",
        "DSC PERFUSION +C",
        "TOF MRA",
        "T1 perfusion DCE post",
        "PD",
        "unknown",
        "t1 mprage post subtraction",
    ),
}
"""By channel."""


@pytest.mark.parametrize(
    ("description", "channel"),
    [(each, channel) for channel, descriptions in DESCRIPTIONS.items() for each in descriptions],
)
def test_descriptions_tell_the_channel_or_neither(description: str, channel: str | None):
    assert channel_of(header(description)) == channel


def test_an_agent_makes_a_t1_a_t1ce_unless_the_description_says_no():
    for agent, expected in (("GADAVIST", "t1ce"), ("NONE", None), ("", None)):
        assert channel_of(header("t1_mprage_sag", ContrastBolusAgent=agent)) == expected
    assert channel_of(header("t1_mprage pre", ContrastBolusAgent="GADAVIST")) is None
    assert contrast_of(header("t1_mprage")) is None
    assert channel_of(header("t1_mprage", ProtocolName="BRAIN WITHOUT AND WITH CONTRAST")) is None
    assert channel_of(header("", ProtocolName="t1_mprage post gd")) == "t1ce"
    agents = Sequence([Dataset()])
    assert channel_of(header("t1_mprage", ContrastBolusAgentSequence=agents)) == "t1ce"


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((95, 9000, 2500), "flair"),
        ((380, 4800, 1650), "flair"),
        ((3, 2000, 900), "t1ce"),
        ((10, 550, None), "t1ce"),
        ((100, 5000, None), None),
        ((3, 5000, None), None),
        ((3, 6000, 2500), None),
        ((None, None, None), None),
    ],
)
def test_times_tell_where_no_description_does(times: tuple[float | None, ...], expected: str | None):
    tags = dict(zip(("EchoTime", "RepetitionTime", "InversionTime"), times, strict=True))
    assert channel_of(header(ContrastBolusAgent="yes", **tags)) == expected


def test_times_overrule_a_description_that_cannot_be():
    assert channel_of(header("T1 FLAIR +C", EchoTime=10, InversionTime=800)) == "t1ce"
    assert channel_of(header("FLAIR", EchoTime=9, InversionTime=760)) is None
    assert channel_of(header("T1 post", EchoTime=100)) is None


def test_times_of_an_enhanced_image_are_in_its_functional_groups():
    shared, echo, modifier = Dataset(), Dataset(), Dataset()
    echo.EffectiveEchoTime, modifier.InversionTimes = 95.0, [2500.0]
    shared.MREchoSequence, shared.MRModifierSequence = Sequence([echo]), Sequence([modifier])
    enhanced = header(SharedFunctionalGroupsSequence=Sequence([shared]))
    assert (time_of(enhanced, "EchoTime"), time_of(enhanced, "InversionTime")) == (95.0, 2500.0)
    assert time_of(enhanced, "RepetitionTime") is None
    assert channel_of(enhanced) == "flair"


def test_reformatted_and_computed_images_and_other_modalities_are_processed():
    for kind in ("LOCALIZER", "MPR", "MIP", "ADC"):
        assert is_processed(header(ImageType=["DERIVED", "PRIMARY", kind]))
    assert is_processed(header(Modality="CT"))
    assert not is_processed(header(ImageType=["ORIGINAL", "PRIMARY", "M", "NORM"]))
    assert not is_processed(header())
