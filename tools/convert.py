"""Bring any weights into this project's format, or into that of PyPI's effdet.

python tools/convert.py tf_efficientdet_d0_34-f153e0cf.pth d0.safetensors --check photo.jpg
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
