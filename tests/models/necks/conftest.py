import pytest
import torch


def _randomise(module):
    """Give every tensor of the module a value that matters, BN statistics included."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + (1.0 if "var" in name else 0.0))
            if "var" in name or "edge_weights" in name:
                tensor.data.abs_()  # a variance is positive, and a negative edge weight would cut its edge
    return module.eval()


@pytest.fixture
def randomise():
    """Return the function that gives a module random values."""
    return _randomise
