"""What the network is fed and the loss compares, and which parameters learn how fast."""

import pytest
import torch

from bundle.networks import TCMN
from bundle.training.engines import PrepareClips, parameter_groups, to_label_volume


@pytest.fixture
def batch():
    """Clip 0 shows object 1, clip 1 objects 1 and 2, all moving one pixel a frame."""
    label = torch.zeros(2, 1, 8, 10, 3, dtype=torch.long)
    for t in range(3):
        label[:, :, 2:5, 1 + t : 4 + t, t] = 1
        label[1, :, 6:8, t : 3 + t, t] = 2
    image = torch.rand(2, 3, 8, 10, 3, generator=torch.Generator().manual_seed(0))
    return {"image": image, "label": label, "ordered": torch.tensor([True, False])}


@pytest.fixture(scope="module")
def network():
    return TCMN("resnet18", key_channels=4, value_channels=8, decoder_channels=(8, 8, 8))


def test_clips_carry_the_masks_of_the_first_frame_only(batch):
    clip, targets, args, options = PrepareClips()(batch, "cpu")
    assert clip.shape == (2, 5, 8, 10, 3)
    assert torch.equal(clip[:, :3], batch["image"])
    for i in (1, 2):
        assert torch.equal(clip[:, 2 + i, ..., 0], (batch["label"][:, 0, ..., 0] == i).float())
    assert not clip[:, 3:, ..., 1:].any()
    assert (args, options) == ((), {"return_values": True})
    assert torch.equal(targets["label"], batch["label"][:, 0])
    assert targets["ordered"].tolist() == [True, False]
    assert targets["present"].tolist() == [[True, False], [True, True]]


def test_later_labels_cannot_leak(batch):
    clip = PrepareClips()(batch)[0]
    batch["label"][..., 1:] = 1
    assert torch.equal(PrepareClips()(batch)[0], clip)


def test_an_object_that_the_first_frame_lacks_is_background(batch):
    batch["label"][0, :, 0, 0, 2] = 2  # clip 1 has an object 2, clip 0 has not
    batch["label"][1, :, 0, 0, 1] = 3
    clip, targets, *_ = PrepareClips()(batch)
    assert clip.shape[1] == 5
    assert targets["label"][0, 0, 0, 2] == 0
    assert targets["label"][1, 0, 0, 1] == 0
    assert targets["label"][1].unique().tolist() == [0, 1, 2]


def test_a_clip_without_object_still_has_a_channel(batch):
    batch["label"].zero_()
    clip, targets, *_ = PrepareClips()(batch)
    assert clip.shape[1] == 4
    assert not clip[:, 3:].any()
    assert not targets["label"].any()


def test_evaluation_keeps_the_labels_as_they_are(batch):
    batch["label"][..., 1] = -1
    clip, label = PrepareClips(training=False)(batch, torch.device("cpu"))
    assert clip.shape == (2, 5, 8, 10, 3)
    assert torch.equal(label, batch["label"])


def test_the_network_takes_what_it_is_fed(batch, network):
    clip, targets, args, options = PrepareClips()(batch)
    logits, values = network(clip, *args, **options)
    assert logits.shape == (2, 3, 8, 10, 3)
    assert values.shape[:4] == (2, 2, 8, 3)
    assert targets["label"].max() < logits.shape[1]


def test_every_parameter_learns_once_and_backbones_slower(network):
    backbones, others = parameter_groups(network, 1e-3, backbone_factor=0.2)
    assert (backbones["lr"], others["lr"]) == (pytest.approx(2e-4), 1e-3)
    ids = [id(p) for group in (backbones, others) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in network.parameters())
    expected = {*network.query_encoder.trunk.parameters(), *network.mask_encoder.trunk.parameters()}
    assert set(backbones["params"]) == expected


def test_frozen_parameters_learn_nothing():
    network = TCMN("resnet18", key_channels=4, value_channels=8, decoder_channels=(8, 8, 8))
    prefix = "query_encoder.trunk.conv1"
    groups = parameter_groups(network, 1e-3, frozen=[prefix, "decoder."])
    frozen = [p for n, p in network.named_parameters() if n.startswith((prefix, "decoder."))]
    learning = {p for group in groups for p in group["params"]}
    assert len(frozen) > 1
    assert not any(p.requires_grad for p in frozen)
    assert learning == set(network.parameters()) - set(frozen)
    assert all(p.requires_grad for p in learning)


def test_a_frozen_prefix_must_fit(network):
    with pytest.raises(
        ValueError, match="frozen: no parameter's name begins with 'trunk', as query"
    ):
        parameter_groups(network, 1e-3, frozen=["trunk"])


def test_parts_learn_at_rates_of_their_own(network):
    factors = {"decoder.predict": 5.0, "query_encoder.key_head": 0.2}
    groups = parameter_groups(network, 1e-3, factors=factors)
    assert [group["lr"] for group in groups[2:]] == [pytest.approx(5e-3), pytest.approx(2e-4)]
    assert set(groups[2]["params"]) == set(network.decoder.predict.parameters())
    assert set(groups[3]["params"]) == set(network.query_encoder.key_head.parameters())
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in network.parameters())


def test_a_prefix_with_a_rate_must_fit(network):
    with pytest.raises(ValueError, match="factors: no parameter's name begins with 'head', as q"):
        parameter_groups(network, 1e-3, factors={"head": 2.0})


def test_logits_become_labels():
    logits = torch.zeros(3, 4, 5, 2)
    logits[2, 1:3, :, 1] = 1
    out = to_label_volume({"pred": logits, "name": "a"})
    assert out["pred"].shape == (1, 4, 5, 2)
    assert out["pred"][0, 1:3, :, 1].unique().tolist() == [2]
    assert (int(out["pred"].sum()), out["name"]) == (20, "a")
