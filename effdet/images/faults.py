"""The errors of everything that reads images."""


def printable(text: str) -> str:
    """Return a text on one line, with letters that move a cursor or control a terminal written out as escapes."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


class ImageError(ValueError):
    """A file that does not give an image; the message begins with its name."""

    def __str__(self) -> str:
        return printable(super().__str__())


class UnreadableError(ValueError):
    """What is wrong with an image, said without the name of its file: "the JPEG is damaged: ..."."""
