"""Errors inside the mask count for more, and with eta 0 the loss is the plain one, bit for bit, in every flow stage."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from train.loop.config import ConfigError
from train.stages.losses import flow_matching_loss
from wanact.models.idm import IDMError
from wanact.models.masked_idm import MaskedInverseDynamics, preset


@pytest.fixture(scope="module")
def idm(tmp_path_factory):
    """Folder of a model whose masks are neither empty nor alike."""
    torch.manual_seed(0)
    model = MaskedInverseDynamics(replace(preset("small", 14), height=32, width=32)).eval()
    model.model.mask_model.out.reset_parameters()  # an untrained mask is the same everywhere
    folder = tmp_path_factory.mktemp("idm")
    model.save(folder)
    return folder


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", ["i2v", "action", "causal"])
def test_eta_zero_is_the_plain_loss_bit_for_bit_and_eta_three_is_more(run, idm, tmp_path, stage):
    more = ["--max_steps", "2", "--batch_size", "2", "--learning_rate", "1e-3"]
    if stage == "causal":
        more += ["--late_share", "0.5", "--num_latent_frames_choices", "2"]
    seen = {}
    for name, own in (
        ("plain", []),
        ("zero", ["--embodiment_aware", "true", "--eta", "0", "--idm", str(idm)]),
        ("three", ["--embodiment_aware", "true", "--idm", str(idm / "idm.pt")]),
    ):
        trainer = run(stage, tmp_path / name, *more, *own)
        seen[name] = losses(tmp_path / name), {n: p.detach().clone() for n, p in trainer.parameters.items()}
    assert seen["zero"][0] == seen["plain"][0] and len(seen["plain"][0]) == 2
    assert all(torch.equal(seen["zero"][1][name], value) for name, value in seen["plain"][1].items())
    assert seen["three"][0][0] > 1.5 * seen["plain"][0][0]


def test_an_error_inside_the_mask_counts_sixteen_times_with_eta_three():
    generator = torch.Generator().manual_seed(0)
    velocity, latents, noise = (torch.randn(2, 4, 3, 2, 2, generator=generator) for _ in range(3))
    counted = torch.ones(2, 1, 3, 1, 1)
    plain = flow_matching_loss(velocity, latents, noise, counted)
    whole = flow_matching_loss(velocity, latents, noise, counted, emphasis=1 + 3 * torch.ones(2, 1, 3, 2, 2))
    torch.testing.assert_close(whole, 16 * plain)
    inside = torch.zeros(2, 1, 3, 2, 2)
    inside[:, :, 1, 0] = 1
    error = (velocity - (noise - latents)).square()
    wanted = plain + 15 * error[:, :, 1, 0].sum(dim=(1, 2)) / error[0].numel()
    torch.testing.assert_close(flow_matching_loss(velocity, latents, noise, counted, emphasis=1 + 3 * inside), wanted)


def test_the_mask_goes_with_its_clip(run, idm, tmp_path):
    """Mirrored, cut to a prefix and begun in the middle, as its latents are."""
    own = ["--embodiment_aware", "true", "--idm", str(idm), "--mirror", "true", "--max_steps", "1"]
    stage = run("causal", tmp_path / "run", *own, "--num_latent_frames_choices", "2", "--late_share", "1").stage
    draws = [stage_draw(stage, index) for index in (0, 1)]
    batch = stage.load(draws)
    assert batch["emphasis"].shape == (2, 1, *batch["latents"].shape[2:])
    masks = [stage.masks[i]["mask"].float() for i in (0, 1)]
    assert not torch.equal(*masks), "a mirrored clip has a mask of its own"
    for mask, emphasis in zip(masks, batch["emphasis"], strict=True):
        late = stage._late(draws[0])
        assert late and torch.equal(emphasis, 1 + 3 * mask[:, [0, late + 1]])


def stage_draw(stage, index):
    from train.loop.seeding import Draw

    return Draw(index, index, 0, stage.config.optim.seed, stage.name)


def test_what_is_missing_is_said_before_anything_loads(run, tmp_path, monkeypatch):
    for flags, words in (
        (["--embodiment_aware", "true"], "--embodiment_aware needs --idm FILE"),
        (["--embodiment_aware", "true", "--init_from", str(tmp_path / "vidar.pt")], "there is none beside"),
        (["--embodiment_aware", "true", "--idm", str(tmp_path / "none.pt")], "--idm .* is missing"),
        (["--eta", "2"], "--eta has no effect without --embodiment_aware true"),
        (["--embodiment_aware", "true", "--eta", "-1"], "--eta -1 must be at least 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            run("i2v", tmp_path / "run", *flags)
    (tmp_path / "none.pt").write_bytes(b"nothing")
    with pytest.raises(IDMError, match="is no inverse dynamics model"):
        run("i2v", tmp_path / "run", "--embodiment_aware", "true", "--idm", str(tmp_path / "none.pt"))
