"""Write a model as an ONNX, OpenVINO or torch.export file that holds all that is needed to use it.

python tools/export.py --weights runs/demo/best.safetensors --format onnx --check data/demo/images
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
