import numpy as np
import pytest


@pytest.fixture
def rgb() -> np.ndarray:
    """A picture that no flip or turn maps to itself: 32×48, red left, green right, a blue block at the top left."""
    image = np.zeros((32, 48, 3), dtype=np.uint8)
    image[:, :24, 0] = 200
    image[:, 24:, 1] = 160
    image[:8, :8] = (0, 0, 250)
    return image
