"""Folding BatchNorm changes nothing but the time it takes, in training too."""

import pytest
import torch
from torch import nn

from bundle.networks import TCMN
from bundle.networks.fold_batchnorm import FoldedTraining, fold_batch_norm


def make_network(backbone):
    torch.manual_seed(0)
    network = TCMN(backbone, key_channels=8, value_channels=16, decoder_channels=(16, 8, 8))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics as of a trained network, not 0 and 1
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.eval()


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@torch.no_grad()
def test_a_folded_network_gives_the_same_without_batch_norm(backbone):
    network = make_network(backbone)
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    clip = torch.rand(1, 5, 32, 48, 3)
    expected = network(clip)
    assert expected.std() > 0.01
    torch.testing.assert_close(folded(clip), expected, rtol=1e-3, atol=1e-3)


def test_the_network_itself_stays_as_it_is():
    network = make_network("resnet18")
    names = set(network.state_dict())
    fold_batch_norm(network)
    assert set(network.state_dict()) == names
    assert isinstance(network.query_encoder.trunk.bn1, nn.BatchNorm2d)


def test_a_network_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"evaluation mode only: call network.eval\(\)"):
        fold_batch_norm(make_network("resnet18").train())


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_training_folded_gives_the_same_maps_and_gradients(backbone):
    # Of the part that has BatchNorm; in double precision, since rounding moves what ReLU lets through.
    encoder = make_network(backbone).query_encoder.double()
    image = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    found = []
    for form in (encoder, FoldedTraining(encoder)):
        encoder.zero_grad()
        maps = form(image)
        sum(each.square().mean() for each in maps).backward()
        gradients = {name: each.grad for name, each in encoder.named_parameters()}
        found.append({**gradients, **{f"map {i}": each.detach() for i, each in enumerate(maps)}})
    plain, folded = found
    assert all(each is not None and each.abs().sum() > 0 for each in plain.values())
    for name, expected in plain.items():
        torch.testing.assert_close(folded[name], expected, msg=lambda text, n=name: f"{n}: {text}")


def test_training_folded_leaves_the_network_and_its_mode_alone():
    network = make_network("resnet18").train()
    names = list(network.state_dict())
    form = FoldedTraining(network)
    assert network.training
    assert list(network.state_dict()) == names
    assert list(form.state_dict()) == [f"network.{name}" for name in names]
    assert {id(each) for each in form.parameters()} == {id(each) for each in network.parameters()}
