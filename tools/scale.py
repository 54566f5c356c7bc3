"""Scale a detector to a budget, or by the papers' procedure on your own data.

python tools/scale.py budget --macs 6e9 --out my.yaml
python tools/scale.py compare configs/custom.yaml data.root=data/custom --images 2000 --out runs/comparison
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["scale", *sys.argv[1:]]))
