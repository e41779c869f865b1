"""ImageNet in miniature: the two tar files that a person gets from image-net.org."""

import io
import tarfile

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850")


def picture(seed, **options):
    """A smooth random JPEG of some size near 48 x 64."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    size = (64 - seed % 5, 48 - seed % 7)
    file = io.BytesIO()
    mode = options.pop("mode", "RGB")
    smooth = coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)
    smooth.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def _tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def write_tars(manual_dir, *, train_of_each=8, validation=10):
    """Writes the tar files; returns the images: by class, and of validation."""
    manual_dir.mkdir(parents=True)
    kinds = [{}, {"mode": "L"}, {"mode": "CMYK"}, {"progressive": True}]
    train = {
        name: {
            f"{name}_{k}.JPEG": picture(100 * c + k, **kinds[k % 4])
            for k in range(train_of_each)
        }
        for c, name in enumerate(CLASSES)
    }
    held_out = {
        f"ILSVRC2012_val_{k:08d}.JPEG": picture(1000 + k)
        for k in range(1, validation + 1)
    }
    tars = {f"{name}.tar": _tar(images) for name, images in train.items()}
    (manual_dir / "ILSVRC2012_img_train.tar").write_bytes(_tar(tars))
    (manual_dir / "ILSVRC2012_img_val.tar").write_bytes(_tar(held_out))
    return train, held_out
