"""Detect objects in images, folders or videos.

python tools/predict.py --weights runs/demo/best.safetensors photos/ --out found/
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
