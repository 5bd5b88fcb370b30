"""The network's pass over a clip as TorchScript computes what the network does."""

import io

import jaxtyping
import pytest
import torch


@pytest.fixture(scope="module")
def exported(network):
    """Scripted, written and read again."""
    jaxtyping.config.update("jaxtyping_disable", True)  # while it is traced sizes are no numbers
    try:
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(network), file)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 4, 32, 48, 3), id="the sizes it was traced with"),
        pytest.param((2, 5, 50, 70, 7), id="two clips, two objects, two remembered, odd sizes"),
        pytest.param((1, 6, 16, 16, 1), id="the smallest"),
        pytest.param((3, 4, 33, 64, 2), id="three clips"),
    ],
)
def test_any_size_number_of_frames_objects_and_clips(network, exported, shape):
    clip = torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))
    clip[:, 3:] = (clip[:, 3:] > 0.5).float()
    with torch.inference_mode():
        expected, found = network(clip), exported(clip)
    assert expected.shape == found.shape
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0
