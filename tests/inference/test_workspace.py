import numpy as np

from sgnet_nnunet.inference.sparse import Workspace


def test_memory_is_used_again_for_what_fits():
    workspace = Workspace()
    first = workspace.take("a", (4, 5))
    first[:] = 7
    again = workspace.take("a", (2, 3))
    assert again.shape == (2, 3)
    assert np.shares_memory(first, again)
    assert not np.shares_memory(again, workspace.take("b", (2, 3)))


def test_larger_array_is_new_memory():
    workspace = Workspace()
    first = workspace.take("a", (2, 3))
    larger = workspace.take("a", (4, 5))
    assert larger.shape == (4, 5)
    assert not np.shares_memory(first, larger)


def test_more_than_the_limit_is_given_back():
    workspace = Workspace()
    held = workspace.take("a", (10,))
    workspace.trim(40)
    assert np.shares_memory(held, workspace.take("a", (10,)))
    workspace.trim(39)
    assert not np.shares_memory(held, workspace.take("a", (10,)))
