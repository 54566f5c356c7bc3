"""The error that decoders of this package raise; the reader puts the name of the file in front of it."""


class UnreadableError(ValueError):
    """What is wrong with an image, said without the name of its file: "the JPEG is damaged: ..."."""
