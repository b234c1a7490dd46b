"""Damaged files are refused in one line by every reader; what `make fuzz` found is a row here."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from fuzz_targets import TARGETS, places, replaced
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("SGNET_FUZZ_EXAMPLES", "25"))
JSON = sorted(name for name, target in TARGETS.items() if target.seeds[0][:1] in b"{[")
bounded = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def npz(probabilities):
    file = io.BytesIO()
    np.savez(file, probabilities=probabilities)
    return file.getvalue()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 0, 2**31, 2**63])
    | st.floats()
    | st.text()
    | st.sampled_from(["", "../a", "a/b", "/etc/passwd", "\x00", "\x1b[31m", "\ud800", "1", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)

FOUND = [
    *((name, TARGETS[name].seeds[0].replace(b"3 2 2", b"3 0 2")) for name in ("metaimage", "nrrd")),
    ("probabilities", TARGETS["probabilities"].seeds[0].replace(b"}  ", b"}  (", 1)),  # tokenize.TokenError
    ("probabilities", npz(np.zeros((2, 0, 2, 2), "f4"))),
    *(("probabilities", npz(np.zeros((2, 2, 2, 2), kind))) for kind in ("U1", "c8", "V3", "i4", "M8[s]")),
]


@st.composite
def damaged(draw, seeds):
    """Draw one of the seeds, cut somewhere, with some bytes overwritten, and something inserted."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(content)))
        content[at:at] = draw(st.binary(max_size=12))
    return bytes(content[: draw(st.just(len(content)) | st.integers(0, len(content)))])


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted(name, tmp_path):
    assert all(TARGETS[name].check(tmp_path, seed) for seed in TARGETS[name].seeds)


@pytest.mark.parametrize("name", TARGETS)
@bounded
@given(data=st.data())
def test_damaged_file_is_read_or_refused_in_one_line(name, tmp_path, data):
    TARGETS[name].check(tmp_path, data.draw(damaged(TARGETS[name].seeds)))


@pytest.mark.parametrize("name", JSON)
@bounded
@given(data=st.data())
def test_other_values_are_read_or_refused_in_one_line(name, tmp_path, data):
    content = json.loads(TARGETS[name].seeds[0])
    for _ in range(data.draw(st.integers(1, 2))):
        content = replaced(content, data.draw(st.sampled_from(places(content))), data.draw(VALUES))
    TARGETS[name].check(tmp_path, json.dumps(content).encode())


FOUND += [(name, b'"\\ud800"') for name in JSON]  # half of a surrogate pair
FOUND += [(name, b'{"a": ["\\ud800"]}') for name in JSON]


@pytest.mark.parametrize(("name", "content"), FOUND)
def test_what_was_found_is_refused_in_one_line(name, content, tmp_path: Path):
    assert not TARGETS[name].check(tmp_path, content)
