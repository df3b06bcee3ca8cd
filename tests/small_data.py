"""Small files that training data and stored boxes are read from."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from tests.tiny import random_photo


def coco_file(folder: Path) -> Path:
    """Two boxes for the photo ``a`` of 60 x 40 pixels."""
    boxes = [{"bbox": [8, 8, 20, 10], "id": 1}, {"bbox": [0, 0, 60, 40], "id": 2}]
    data = {
        "images": [{"id": 7, "file_name": "a", "width": 60, "height": 40}],
        "annotations": [b | {"image_id": 7, "category_id": 3, "area": 1, "iscrowd": 0} for b in boxes],
        "categories": [{"id": 3, "name": "cup"}],
    }
    path = folder / "boxes.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def coco_pictures(folder: Path) -> Path:
    """Two pictures, the first of which has boxes."""
    path = coco_file(folder)
    data = json.loads(path.read_text(encoding="utf-8"))
    data["images"] = [data["images"][0] | {"id": id, "file_name": name} for id, name in ((7, "a.png"), (8, "b.png"))]
    for image in data["images"]:
        Image.new("RGB", (60, 40)).save(folder / image["file_name"])
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def picture_folder(folder: Path) -> Path:
    """A picture in each of two sub-folders."""
    pictures = folder / "pictures"
    for name, (height, width) in (("a", (40, 60)), ("b", (60, 40))):
        file = pictures / name / "1.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random_photo(height, width).pixels.transpose(1, 2, 0)).save(file)
    return pictures
