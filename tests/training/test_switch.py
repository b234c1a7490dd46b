import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.training.settings import read_switch

NAME = "SGNET_SOMETHING"


@pytest.mark.parametrize(("given", "on"), [("0", False), ("1", True)])
def test_what_is_set_counts(given, on):
    assert read_switch(NAME, "on", default=not on, environment={NAME: given}) == on


@pytest.mark.parametrize("environment", [{}, {NAME: ""}])
@pytest.mark.parametrize("default", [False, True])
def test_what_is_not_set_is_the_default(environment, default):
    assert read_switch(NAME, "on", default=default, environment=environment) == default


@pytest.mark.parametrize("given", ["yes", "2", "-1"])
def test_anything_else_is_refused(given):
    with pytest.raises(SGNetError, match=f"{NAME}='{given}': must be 1 \\(it does\\) or 0"):
        read_switch(NAME, "it does", default=False, environment={NAME: given})
