"""Choose the series of T1ce and of FLAIR by the DICOM tags of MR images, classic or enhanced."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from sgnet_nnunet.errors import InputFileError, printable

if TYPE_CHECKING:
    from pydicom import Dataset

    from sgnet_nnunet.patient.dicom import FoundSeries

Channel = Literal["t1ce", "flair"]
CHANNEL_NAMES = {"t1ce": "T1ce", "flair": "FLAIR"}

FEWEST_TO_CHOOSE = 8
"""Images that a series needs to be chosen by its tags: the thickest clinical FLAIR has some twenty."""

MOST_LISTED = 12
"""Series that an error lists."""

LONGEST_T1_ECHO, SHORTEST_FLAIR_ECHO = 40.0, 60.0
LONGEST_T1_REPETITION = 1200.0
T1_INVERSION, FLAIR_INVERSION = (300.0, 1400.0), (1500.0, 3500.0)
"""In ms. Clinical T1-weighted scans: TE 2 to 20, TR 5 to 900 (spin echo), TI 450 to 1200 if inverted; FLAIR:
TE 80 to 400, TI 1600 to 2900. A T1 FLAIR has the TE and TI of the former (Bernstein et al., Handbook of MRI
Pulse Sequences, 2004)."""

_PROCESSED = {"LOCALIZER", "MPR", "MIP", "MIN_IP", "MAX_IP", "ADC", "PROJECTION IMAGE", "SUBTRACTION"}
"""Values of ImageType of what is no stack of acquired slices."""

_NOT_STRUCTURAL = re.compile(
    r"localizer|scout|survey|dwi|adc|diff|dti|swi|swan|t2\*|perf|dsc|dce|asl|bold|fmri|mra|tof|angio|spectro"
    r"|\bmip|subtr|field.?map|cb[fv]",
    re.IGNORECASE,
)
_FLAIR = re.compile(r"flair|dark.?fl|tirm", re.IGNORECASE)
_T1 = re.compile(r"t1|mp.?rage|spgr|bravo|vibe|tfe|thrive|lava|flash", re.IGNORECASE)
_T2 = re.compile(r"t2", re.IGNORECASE)
_WITHOUT = re.compile(
    r"(?<![a-z])(pre|without|w/?o|unenhanced|nativ\w*|ohne|sans|sin|senza|non?.?(contrast|gad\w*|gd|ce|c))"
    r"(?![a-z])|(?<![a-z0-9 ])-c(?![a-z])",
    re.IGNORECASE,
)
_WITH = re.compile(
    r"(?<![a-z])(post|gado?\w*|gd|ce|km|kontrast\w*|contrast\w*|enhanced|mdc|dotarem)(?![a-z])"
    r"|t1[ _-]?(ce|c|gd|gad|km|post)(?![a-z])|\+ ?(c|gd|gad|km)(?![a-z])|(?<![a-z])c\+",
    re.IGNORECASE,
)
_NO_AGENT = {"", "NO", "NONE", "N", "0", "NULL", "UNKNOWN"}

_GROUPS = {
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
}
"""Where an enhanced image has the times of a classic one."""


def choose_series(
    series: Sequence["FoundSeries"], wanted: str | None = None, channel: Channel | None = None
) -> tuple["FoundSeries", str]:
    """Return one series of those of a folder, and a warning; empty if there is nothing to warn of.

    Args:
        series: The series, at least one, of one folder or file.
        wanted: UID, number or description of the series, as the user names it.
        channel: What to look for in the tags if `wanted` is None and there are several.

    Raises:
        InputFileError: None or several fit; the message lists the series.
    """
    path = series[0].path
    if wanted is not None:
        fields = ("uid", "number", "description")
        key = wanted.strip().casefold()
        for field in fields:
            fitting = [each for each in series if getattr(each, field).casefold() == key]
            if len(fitting) == 1:
                return fitting[0], ""
            if fitting:
                break
        number = f"{len(fitting)} series" if fitting else "no series"
        problem = f"holds {number} with the UID, number or description {printable(wanted)}"
        raise InputFileError(path, problem, _naming(series, channel))
    if len(series) == 1:
        return series[0], ""
    if channel is None:
        raise InputFileError(path, f"holds {len(series)} series", _naming(series, channel))
    fitting, warning = _fitting(series, channel)
    if len(fitting) != 1:
        name = CHANNEL_NAMES[channel]
        number = f"{len(fitting)} are" if fitting else "none is"
        problem = f"holds {len(series)} series, of which {number} {name} by the tags"
        raise InputFileError(path, problem, _naming(series, channel))
    return fitting[0], warning


def _naming(series: Sequence["FoundSeries"], channel: Channel | None) -> str:
    listed = [each.listed for each in series[:MOST_LISTED]]
    more = [f"{len(series) - MOST_LISTED} more"] if len(series) > MOST_LISTED else []
    option = f"--{channel}-series" if channel else "the series"
    return f"name one with {option}, by its UID, number or description: {', '.join([*listed, *more])}"


def _fitting(series: Sequence["FoundSeries"], channel: Channel) -> tuple[list["FoundSeries"], str]:
    """Return the series that are of a channel by their tags; original images before derived ones."""
    usable = [
        each for each in series if each.images >= FEWEST_TO_CHOOSE and not is_processed(each.headers[0])
    ]
    for group in ([each for each in usable if "DERIVED" not in image_type(each.headers[0])], usable):
        if fitting := [each for each in group if channel_of(each.headers[0]) == channel]:
            return fitting, ""
        plain = [each for each in group if weighting_of(each.headers[0]) == "t1"]
        if channel == "t1ce" and len(plain) == 1 and contrast_of(plain[0].headers[0]) is None:
            return plain, "the tags do not say that contrast agent was given"
    return [], ""


def text_of(header: "Dataset", keyword: str) -> str:
    """Return the value of a tag as printable text; empty if the tag is absent or empty."""
    value = header.get(keyword, None)
    return "" if value is None else printable(str(value).strip(" \0"))


def image_type(header: "Dataset") -> set[str]:
    """Return the values of ImageType in capitals."""
    value = header.get("ImageType", None) or []
    return {str(each).strip().upper() for each in ([value] if isinstance(value, str) else value)}


def is_processed(header: "Dataset") -> bool:
    """Return whether an image is a localizer, a reformatted or computed image, or not MR at all."""
    return bool(_PROCESSED & image_type(header)) or text_of(header, "Modality") != "MR"


def channel_of(header: "Dataset") -> Channel | None:
    """Return the channel that the tags of an MR image name beyond doubt; None if they name neither."""
    weighting = weighting_of(header)
    if weighting == "flair":
        return "flair"
    return "t1ce" if weighting == "t1" and contrast_of(header) else None


def weighting_of(header: "Dataset") -> Literal["t1", "flair"] | None:
    """Return the weighting of an image by its description, checked by its times, or by these alone."""
    words = text_of(header, "SeriesDescription") or text_of(header, "ProtocolName")
    echo = time_of(header, "EchoTime")
    is_long = echo is not None and echo >= SHORTEST_FLAIR_ECHO
    is_short = echo is not None and echo <= LONGEST_T1_ECHO
    if _NOT_STRUCTURAL.search(words):
        return None
    has_t1, has_t2 = bool(_T1.search(words)), bool(_T2.search(words))
    if _FLAIR.search(words) and not is_short and (is_long or has_t2 or not has_t1):
        return "flair"
    if has_t1 or has_t2:
        return None if is_long or has_t2 else "t1"
    return _weighting_by_times(header, is_long=is_long, is_short=is_short)


def _weighting_by_times(header: "Dataset", *, is_long: bool, is_short: bool) -> Literal["t1", "flair"] | None:
    inversion, repetition = time_of(header, "InversionTime"), time_of(header, "RepetitionTime")
    if inversion and is_long and FLAIR_INVERSION[0] <= inversion <= FLAIR_INVERSION[1]:
        return "flair"
    if inversion:
        is_t1 = T1_INVERSION[0] <= inversion <= T1_INVERSION[1]
    else:
        is_t1 = repetition is not None and repetition <= LONGEST_T1_REPETITION
    return "t1" if is_t1 and is_short else None


def contrast_of(header: "Dataset") -> bool | None:
    """Return whether contrast agent was given; None if the tags do not say so.

    The series' description says it best, then the agent, then the protocol, which may be of a whole study.
    """
    description, protocol = text_of(header, "SeriesDescription"), text_of(header, "ProtocolName")
    if _WITHOUT.search(description):
        return False
    agent = text_of(header, "ContrastBolusAgent").upper() not in _NO_AGENT
    if agent or header.get("ContrastBolusAgentSequence", None) or _WITH.search(description):
        return True
    return True if _WITH.search(protocol) and not _WITHOUT.search(protocol) else None


def time_of(header: "Dataset", keyword: str) -> float | None:
    """Return EchoTime, InversionTime or RepetitionTime in ms; None if it is absent or unusable."""
    sequence, inner = _GROUPS[keyword]
    value = header.get(keyword, None)
    if value in (None, "") and (item := group_of(header, 0, sequence)) is not None:
        value = item.get(inner, None)
    try:
        return float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)
    except (TypeError, ValueError, LookupError):
        return None


def group_of(header: "Dataset", frame: int, keyword: str) -> "Dataset | None":
    """Return a functional group of a frame (from 0), its own before the shared one; None if it has none."""
    for sequence, index in (
        ("PerFrameFunctionalGroupsSequence", frame),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        items = header.get(sequence, None) or []
        found = items[index].get(keyword, None) if index < len(items) else None
        if found:
            return found[0]
    return None
