"""Settings of a config on a command line: words such as ``train.epochs=12``."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

_SETTING = re.compile(r"[A-Za-z_]\w*(\.\w+)+=")


class OverridesParser(argparse.ArgumentParser):
    """Takes settings of a config in any place among the other words of a command line.

    ``argparse`` alone takes them only beside other words without ``--``, and gives them to an option that stands before
    them and takes several values.
    """

    _takes_overrides = False
    _is_inside = False

    def add_overrides(self, replaced: str) -> None:
        """Add ``overrides``, a list of words; the help says that they replace those of ``replaced``."""
        self._takes_overrides = True
        self.add_argument(
            "overrides",
            metavar="key.sub=value",
            nargs="*",
            default=[],
            help=f"settings that replace those of {replaced}",
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return what ``argparse`` does, with all settings in ``overrides``, in their order."""
        if not self._takes_overrides or self._is_inside:
            return super().parse_known_args(args, namespace)
        words = list(sys.argv[1:] if args is None else args)
        settings = [word for word in words if _SETTING.match(word)]
        others = [word for word in words if not _SETTING.match(word)]
        self._is_inside = True
        try:
            parsed, unknown = self.parse_known_intermixed_args(others, namespace)
        finally:
            self._is_inside = False
        parsed.overrides = [*settings, *parsed.overrides]
        return parsed, unknown
