"""The network that sees how near everything is: it begins from what is usual, and is read as it was written."""

from __future__ import annotations

import json

import pytest
import torch

from wanact.errors import UserError
from wanact.models.nearness import (
    CONFIG,
    WEIGHTS,
    NearnessConfig,
    NearnessError,
    NearnessNetwork,
    load_nearness,
    usual_nearness,
)

SMALL = NearnessConfig((4, 8, 8))


def test_untrained_it_sees_what_is_usual_at_any_size():
    network = NearnessNetwork(SMALL)
    for height, width in ((64, 96), (50, 34)):
        elevation = torch.linspace(20, -40, height // 2)[None, None, :, None].expand(1, 1, -1, width // 2)
        near = network(torch.rand(2, 3, height, width), elevation)
        torch.testing.assert_close(near, usual_nearness(elevation).expand(2, -1, -1, -1))
    assert near[0, 0, :, 0].diff().min() >= 0, "the lower, the nearer"


def test_what_is_written_is_what_is_read(tmp_path):
    network = NearnessNetwork(SMALL)
    torch.nn.init.normal_(network.leave.weight)
    network.save(tmp_path)
    read = load_nearness(tmp_path)
    asked = (torch.rand(1, 3, 32, 48), torch.zeros(1, 1, 16, 24))
    assert read is not None and torch.equal(read(*asked), network(*asked))
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_none_is_there_or_a_damaged_one_is_named(tmp_path):
    assert load_nearness(tmp_path) is None
    NearnessNetwork(SMALL).save(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({"channels": [4, 8]}))
    with pytest.raises(NearnessError, match=f"{tmp_path} is damaged"):
        load_nearness(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({"channels": [4, 10**9, 8]}))
    with pytest.raises(NearnessError, match="damaged"):
        load_nearness(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"\0" * 100)
    with pytest.raises(NearnessError, match="damaged"):
        load_nearness(tmp_path)


@pytest.mark.parametrize("channels", [(4,), (4, 6), (4, 0), (4.0, 8)])
def test_sizes_that_cannot_be_are_refused(channels):
    with pytest.raises(UserError, match="multiples of 4"):
        NearnessConfig(channels)
