import os
import platform
import subprocess
import sys

import cv2
import numpy as np
import pytest

READ = """
import resource, sys
from effdet.images.reading import read_image
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt for _ in range(4) if read_image(sys.argv[1]) is not None]
print(faults[-1] - faults[-2])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other rules")
def test_a_second_photo_takes_the_memory_of_the_first(tmp_path):
    """The photo has 1,500 pages of 4 KiB; a process that gives them back takes 2,000 again for each photo."""
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.zeros((1080, 1920, 3), np.uint8))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", READ, str(tmp_path / "photo.jpg")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200
