"""Thresholds set on the training patients admit what they promise there."""

import numpy as np
import pytest
import torch
from study.thresholds import SHUT_OUT, Scan, try_thresholds

from sgnet_nnunet.networks.sgnet import SGNet


@pytest.fixture
def rows():
    torch.manual_seed(0)
    network = SGNet(2, 2, gate_kwargs={"threshold": 0.9}).eval()
    scans = []
    for corner in (2, 6):
        foreground = torch.zeros(1, 1, 16, 24, 24, dtype=torch.bool)
        foreground[..., corner : corner + 5, 8:15, corner : corner + 9] = True
        scans.append(Scan(torch.rand(1, 2, 16, 24, 24) + foreground, foreground, (1.0, 1.0, 1.0)))
    return try_thresholds(network, scans, scans[:1])


def test_each_gate_shuts_out_no_more_than_its_share(rows):
    for row in rows[1:]:
        at_most = row["shut_out_share"] * np.arange(1, 4)
        assert np.all(1 - np.array(row["training"]["admitted_voxel_share"]) <= at_most + 1e-9)


def test_the_first_row_keeps_the_plans_threshold(rows):
    assert [row["shut_out_share"] for row in rows] == list(SHUT_OUT)
    assert rows[0]["thresholds"] == pytest.approx([0.9] * 3)
    assert rows[0]["training"]["admitted_voxel_share"][-1] < rows[1]["training"]["admitted_voxel_share"][-1]


def test_admitting_more_opens_more(rows):
    opened = [row["test"]["open_fraction"][-1] for row in rows[1:]]
    assert opened == sorted(opened)
