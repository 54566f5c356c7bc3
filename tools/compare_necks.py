"""Print size and speed of every neck and fusion for one backbone, width and input size, beside the paper's ratios.

python tools/compare_necks.py d0
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["compare_necks", *sys.argv[1:]]))
