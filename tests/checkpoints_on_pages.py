"""The files of PyPI's effdet that README and the pages of docs name, with random weights."""

from pathlib import Path

import torch

from effdet import EfficientDet
from effdet.weights.effdet import to_effdet

D0 = "tf_efficientdet_d0_34-f153e0cf.pth"


def write_checkpoints(folder: Path) -> None:
    """Write the files, with weights by PyTorch's present random numbers."""
    for name, file in (("tf_efficientdet_lite0", "tf_efficientdet_lite0.pth"), ("tf_efficientdet_d0", D0)):
        torch.save(to_effdet(EfficientDet(name, 90).network.state_dict(), name), folder / file)
