"""A folded network computes what the network computes, and no BN shares a convolution."""

import pytest
import torch
from torch import nn

from effdet.deployment.folding import folded_network
from effdet.detector.batches import make_batch


@pytest.mark.parametrize("name", ["lite0", "d0", "full convolutions"])
def test_a_folded_network_computes_the_same(name, trained, cell_photos):
    model = trained(name)
    images = model.network_input(make_batch(cell_photos[:2], model.letterbox))
    folded = folded_network(model)
    with torch.no_grad():
        expected = model.network(images)
        logits, deltas = folded(images)
    for found, wanted in ((logits, expected.class_logits), (deltas, expected.box_deltas)):
        torch.testing.assert_close(found, wanted, atol=1e-4 * float(wanted.std()), rtol=1e-4)
    for head in (folded.network.class_head, folded.network.box_head):
        assert not [module for module in head.modules() if isinstance(module, nn.BatchNorm2d)]
