"""Print a config that comes with the package, as a start for your own.

python tools/config.py custom > mine.yaml
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package wins over an installed one

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main(["config", *sys.argv[1:]]))
