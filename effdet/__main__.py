"""``python -m effdet NAME ...`` is ``effdet NAME ...``."""

import sys

from effdet.commands import main

if __name__ == "__main__":
    sys.exit(main())
