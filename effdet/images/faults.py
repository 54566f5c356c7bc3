"""The errors of everything that reads images."""


class ImageError(ValueError):
    """A file that does not give an image; the message begins with its name."""


class UnreadableError(ValueError):
    """What is wrong with an image, said without the name of its file: "the JPEG is damaged: ..."."""
