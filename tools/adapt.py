"""Narrow a trained detector until it is as fast as it has to be (NetAdapt).

python tools/adapt.py --weights runs/demo/best.safetensors --data data/demo --target-ms 10
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["adapt", *sys.argv[1:]]))
