"""Image and category ids that an annotation file gives to image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effdet.evaluation.results_file import read_json


class ListedImages:
    """Image and category ids of a COCO file, found by file name.

    Args:
        file: COCO JSON with ``images`` and ``categories``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not have these.
    """

    def __init__(self, file: Path) -> None:
        content, self._name = read_json(file, "annotations")
        try:
            listed = [(Path(image["file_name"]).parts, image["id"]) for image in content["images"]]
            categories = sorted((item["id"], str(item.get("name", item["id"]))) for item in content["categories"])
        except (KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{file}: must be COCO JSON whose images have id and file_name, and categories id"
            ) from None
        self.category_ids = tuple(category_id for category_id, _ in categories)
        self.class_names = tuple(name for _, name in categories)
        self._ids: dict[str, list[tuple[tuple[str, ...], Any]]] = {}
        for parts, image_id in listed:
            self._ids.setdefault(parts[-1] if parts else "", []).append((parts, image_id))

    def id_of(self, file: Path) -> Any:
        """Return the id of the image whose ``file_name`` the path ends with.

        Raises:
            ValueError: If there is none, or more than one that fits equally well.
        """
        parts = file.resolve().parts
        fitting = [(len(own), image_id) for own, image_id in self._ids.get(file.name, []) if parts[-len(own) :] == own]
        if not fitting:
            raise ValueError(f"{file}: is not among the images of {self._name}")
        longest = [image_id for length, image_id in fitting if length == max(fitting)[0]]
        if len(longest) > 1:
            raise ValueError(f"{file}: stands in {self._name} under several ids: {', '.join(map(str, longest))}")
        return longest[0]
