"""Images that come as PyTorch tensors, without importing PyTorch for those that do not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = NDArray[Any]


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Return whether a value is a tensor; nobody who has not imported PyTorch holds one."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def tensor_values(tensor: Tensor) -> Array:
    """Return an image (C, H, W) or (H, W) as an array (H, W, C) or (H, W); half precision becomes float32."""
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) in ("torch.bfloat16", "torch.float16"):
        tensor = tensor.float()
    values: Array = (tensor.permute(1, 2, 0) if tensor.ndim == 3 else tensor).numpy()
    return values
