import doctest
import importlib
import subprocess
import sys

import pytest

import sgnet_nnunet

EXAMPLES = ["sgnet_nnunet", *sorted({f"sgnet_nnunet.{module}" for module in sgnet_nnunet._MODULES.values()})]


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, sgnet_nnunet; print([m for m in ('torch', 'numpy', 'nnunetv2') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


@pytest.mark.parametrize("name", sgnet_nnunet.__all__)
def test_every_public_name_is_documented_and_listed(name):
    assert getattr(sgnet_nnunet, name).__doc__
    assert name in dir(sgnet_nnunet)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'SGNot'"):
        _ = sgnet_nnunet.SGNot


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_of_public_names_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    found = sum(
        bool(test.examples) for module in EXAMPLES for test in finder.find(importlib.import_module(module))
    )
    assert found >= 6
