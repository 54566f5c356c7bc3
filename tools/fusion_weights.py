"""Draw what the nodes of a neck learned: the share of each input over the steps of one run or several.

python tools/fusion_weights.py runs/fast runs/softmax --out weights.png
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["fusion_weights", *sys.argv[1:]]))
