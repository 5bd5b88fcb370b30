"""The parts that the paper's network has not: identities at first, then trained like the rest."""

import pytest
import torch

from bundle.networks import TCMN
from bundle.networks.context import ContextBlock, PreviousMask
from bundle.networks.weights import load_weights

SIZES = {"key_channels": 8, "value_channels": 16, "decoder_channels": (16, 8, 8)}
NEW = {"context_channels": 8, "previous_mask": True, "partial_masks": True}


@pytest.fixture
def grown(network, tmp_path):
    """The tiny network's weights in a network that has all new parts."""
    torch.save(network.state_dict(), tmp_path / "old.pt")
    return load_weights(TCMN("resnet18", **SIZES, **NEW), tmp_path / "old.pt", grow=True).eval()


@pytest.fixture
def clip():
    torch.manual_seed(1)
    masks = torch.zeros(2, 2, 48, 64, 4)
    masks[:, 0, 8:30, 10:30, 0] = 1
    masks[:, 1, 20:40, 40:60, 0] = 1
    return torch.cat([torch.rand(2, 3, 48, 64, 4), masks], dim=1)


def test_a_network_with_new_parts_gives_the_old_masks(network, grown, clip):
    with torch.inference_mode():
        # Not to the bit: the last digit of a logit was once another in the second pass.
        torch.testing.assert_close(grown(clip), network(clip), rtol=0, atol=1e-4)


def test_gradients_reach_every_new_part(grown, clip):
    unknown = torch.zeros(2, 2, 48, 64)
    unknown[0] = 1
    optimizer = torch.optim.SGD(grown.parameters(), lr=1e-3)
    for _ in range(2):  # what lies before a layer of zeros learns from the second step on
        optimizer.zero_grad()
        grown(clip, True, unknown).logits.square().mean().backward()
        optimizer.step()
    new = [
        (name, parameter)
        for name, parameter in grown.named_parameters()
        if name.startswith(("decoder.context.", "decoder.previous."))
    ]
    assert len(new) == 21
    assert not [name for name, parameter in new if not parameter.grad.any()]
    assert grown.mask_encoder.trunk.conv1.weight.grad[:, 2].any()


def test_attention_is_that_of_a_loop():
    """The block's attention, head by head and token by token."""
    torch.manual_seed(0)
    block = ContextBlock(6, hidden=8)
    tokens = torch.randn(2, 5, 8)
    query, key, value = block.qkv(tokens).chunk(3, dim=-1)
    read = torch.zeros(2, 5, 8)
    for b in range(2):
        for head in range(4):
            part = slice(2 * head, 2 * head + 2)
            for p in range(5):
                scores = torch.stack([query[b, p, part] @ k / 2**0.5 for k in key[b, :, part]])
                read[b, p, part] = scores.softmax(0) @ value[b, :, part]
    torch.testing.assert_close(block._attend(tokens), block.join(read), rtol=1e-4, atol=1e-6)


def test_the_context_of_an_object_is_its_own():
    torch.manual_seed(0)
    block = ContextBlock(6, hidden=8)
    torch.nn.init.normal_(block.leave.weight)
    maps = torch.randn(3, 6, 5, 7)
    alone = torch.cat([block(each[None]) for each in maps])
    torch.testing.assert_close(block(maps), alone)


def test_context_sees_the_whole_frame():
    torch.manual_seed(0)
    block = ContextBlock(6, hidden=8)
    torch.nn.init.normal_(block.leave.weight)
    maps = torch.randn(1, 6, 12, 12)
    changed = maps.clone()
    changed[..., -1, -1] += 3
    assert (block(changed) - block(maps))[..., 0, 0].abs().max() > 0


def test_context_channels_must_be_a_multiple():
    with pytest.raises(ValueError, match="context needs channels in multiples of 4, got 6"):
        ContextBlock(8, hidden=6)


def test_an_empty_previous_mask_differs_from_none():
    previous = PreviousMask(4)
    torch.nn.init.ones_(previous.conv.weight)
    empty = torch.zeros(2, 1, 32, 32)
    told = previous(empty, torch.tensor([1.0, 0.0]))
    assert told[0].any()
    assert not told[1].any()


def test_a_clip_is_told_what_it_asks_for(grown, clip):
    """Frames that are told nothing do not depend on the frame before."""
    torch.nn.init.normal_(grown.decoder.previous.conv.weight)
    use = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])
    with torch.inference_mode():
        told, asked = grown(clip), grown(clip, previous_use=use)
        torch.nn.init.zeros_(grown.decoder.previous.conv.weight)
        untold = grown(clip)
    torch.testing.assert_close(asked[0], told[0])
    torch.testing.assert_close(asked[1], untold[1])
    assert not torch.equal(told, untold)


def test_a_whole_mask_is_kept_and_a_partial_one_completed(grown, clip):
    unknown = torch.zeros(2, 2, 48, 64)
    unknown[0, 0] = 1
    with torch.inference_mode():
        plain, asked = grown(clip), grown(clip, unknown=unknown)
        features = grown.encode(clip[:1, :3, ..., 0])
        completed = grown.complete(features, clip[:1, 3:, ..., 0], unknown[:1])
    torch.testing.assert_close(asked[1], plain[1])
    torch.testing.assert_close(asked[:1, ..., 0], completed)
    assert not torch.equal(asked[0, ..., 0], plain[0, ..., 0])


def test_weights_of_another_network_do_not_grow(tmp_path):
    torch.save(TCMN("resnet18", **SIZES).state_dict(), tmp_path / "old.pt")
    wider = TCMN("resnet18", **{**SIZES, "value_channels": 24}, **NEW)
    with pytest.raises(ValueError, match="is of another network"):
        load_weights(wider, tmp_path / "old.pt", grow=True)
    with pytest.raises(ValueError, match="is of another network"):
        load_weights(TCMN("resnet18", **SIZES, **NEW), tmp_path / "old.pt")
