"""Train EfficientDet from a config file.

python tools/train.py configs/demo.yaml
python tools/train.py configs/d0_coco.yaml train.epochs=12 run.name=short
torchrun --nproc_per_node=2 tools/train.py configs/d0_coco.yaml
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
