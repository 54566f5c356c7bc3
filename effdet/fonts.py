"""Fonts for drawn text: one that has all its letters, or escapes for the letters that no font of this machine has.

A font draws a letter that it lacks as an empty box, so that two names in such a script would look the same.
"""

from __future__ import annotations

import importlib.util
import logging
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

log = logging.getLogger(__name__)

_KINDS = (".ttf", ".otf", ".ttc")
_LACKED_BY_ALL = "\U0010ffff"  # never a letter, so every font draws its empty box
_TEST_SIZE = 20  # pixels; any size that shows the difference between letters


def drawable_text(text: str) -> str:
    r"""Return a text with escapes such as ``\u7ea2`` for the letters that no font of this machine has.

    Characters that do not print, such as a new line, are escaped too. The first time that a text needs escapes, the log
    says so.
    """
    missing = [letter for letter in text if not letter.isprintable()]
    if _path_of_font(_letters(text)) is None:
        missing += [letter for letter in text if not _has(str(default_font()), letter)]
        _say_once(text)
    return "".join(letter.encode("unicode_escape").decode() if letter in missing else letter for letter in text)


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font of this size, in pixels, that has all letters of the text; DejaVu Sans if none has."""
    return _font(_path_of_font(_letters(text)) or str(default_font()), size)


@lru_cache(maxsize=1)
def default_font() -> Path:
    """Return DejaVu Sans, which matplotlib brings and which knows far more alphabets than Pillow's own font.

    Matplotlib is found without being imported: that would take longer than drawing.
    """
    place = importlib.util.find_spec("matplotlib")
    assert place is not None, "matplotlib is a requirement of this package"
    assert place.origin is not None
    return Path(place.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"


def _letters(text: str) -> frozenset[str]:
    return frozenset(letter for letter in text if letter.isprintable() and not letter.isspace())


@lru_cache(maxsize=1024)
def _path_of_font(letters: frozenset[str]) -> str | None:
    """Return the first font that has all these letters; the fonts of the system are looked for only where needed."""
    for path in (str(default_font()),) if _have_all(str(default_font()), letters) else _system_fonts():
        if _have_all(path, letters):
            return path
    return None


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    from matplotlib.font_manager import findSystemFonts

    return tuple(sorted(path for path in findSystemFonts() if path.lower().endswith(_KINDS)))


def _have_all(path: str, letters: frozenset[str]) -> bool:
    try:
        return all(_has(path, letter) for letter in sorted(letters))
    except OSError:  # a font that FreeType cannot open
        return False


@lru_cache(maxsize=8192)
def _has(path: str, letter: str) -> bool:
    return letter.isascii() or _shape(path, letter) != _shape(path, _LACKED_BY_ALL)


@lru_cache(maxsize=256)
def _shape(path: str, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(path, _TEST_SIZE).getmask(letter)
    return mask.size, bytes(mask)


@lru_cache(maxsize=64)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@lru_cache(maxsize=1024)
def _say_once(text: str) -> None:
    log.warning(
        "no font of this machine has all letters of '%s': the others are drawn as their codes; install a font such as "
        "Noto Sans CJK",
        text,
    )
