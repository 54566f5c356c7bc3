"""Serve a page on this machine that shows what a detector finds in photos and in pictures of the camera.

python tools/app.py --weights runs/demo/best.safetensors
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
