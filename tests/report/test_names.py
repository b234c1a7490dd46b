import pytest

from sgnet_nnunet.report.figures import breakable, lines_of, parts_of


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("SGNetNoGateTrainer", ["SGNet", "No", "Gate", "Trainer"]),
        (
            "nnUNetTrainer__nnUNetResEncUNetMPlans",
            ["nn", "UNet", "Trainer__", "nn", "UNet", "Res", "Enc", "UNet", "MPlans"],
        ),
        ("case_01", ["case_", "01"]),
        ("", []),
    ],
)
def test_a_name_is_cut_where_a_word_begins(name, parts):
    assert parts_of(name) == parts


def test_lines_are_no_wider_than_asked_and_keep_the_name_whole():
    name = "nnUNetTrainer__nnUNetResEncUNetMPlans"
    lines = lines_of(name, width=22).split("\n")
    assert "".join(lines) == name
    assert all(len(line) <= 22 for line in lines)


def test_a_name_for_html_is_escaped():
    assert breakable("a<b>_&") == "a&lt;b&gt;_<wbr>&amp;"
