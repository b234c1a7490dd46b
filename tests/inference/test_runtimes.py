import sys
from types import SimpleNamespace

import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.runtimes import import_openvino


def test_missing_extra_is_named_with_the_command(without_module):
    without_module("openvino")
    with pytest.raises(
        SGNetError, match=r"openvino is not installed; run: pip install 'sgnet-nnunet\[cpu\]'"
    ):
        import_openvino()


def test_first_tensor_is_made_before_any_thread_makes_one(monkeypatch):
    made = []

    def tensor(array, **_):
        made.append(array)
        return SimpleNamespace(data=array)

    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Tensor=tensor))
    import_openvino()
    assert len(made) == 1
