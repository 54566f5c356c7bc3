"""Make network inputs with the evaluation transforms of PyPI effdet: python make_inputs.py IN.npz OUT.npz.

IN: image_size (2,); mean and std (3,) of pixels in 0…1; fill, a string; interpolation, a string; any number of images
image_n (h, w, 3) uint8. OUT: for each image_n (3, H, W) float32, and scale_n, original per network pixel.
"""

import sys

import numpy as np
import torch
from PIL import Image

from effdet.data.transforms import transforms_coco_eval


def main(source, target):
    given = dict(np.load(source))
    mean, std = (tuple(given[name].tolist()) for name in ("mean", "std"))
    transform = transforms_coco_eval(
        tuple(given["image_size"].tolist()),
        interpolation=str(given["interpolation"]),
        use_prefetcher=True,
        fill_color=str(given["fill"]),
        mean=mean,
        std=std,
    )
    made = {}
    for name, image in given.items():
        if not name.startswith("image_") or name == "image_size":
            continue
        pixels, annotations = transform(Image.fromarray(image), {})
        # What its prefetching loader does on the device, which has to be CUDA there.
        scaled = (torch.tensor([value * 255 for value in values]).view(3, 1, 1) for values in (mean, std))
        batch = torch.from_numpy(pixels).float().sub_(next(scaled)).div_(next(scaled))
        made[name] = batch.numpy()
        made[name.replace("image", "scale")] = np.float32(annotations["img_scale"])
    np.savez(target, **made)


if __name__ == "__main__":
    main(*sys.argv[1:])
