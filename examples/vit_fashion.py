"""A small vision transformer on Fashion-MNIST, from scratch, with MoCo's queue.

    python examples/vit_fashion.py

The four files of Fashion-MNIST are expected in /usr/share/datasets/fashion-mnist, the
directory of Debian's package dataset-fashion-mnist; `--source=idx:FOLDER` names another
directory and `--seed=1` another seed. An epoch takes a while on a CPU and seconds on a
GPU.
"""

import argparse

import optax

import caco_jax
from caco_jax.data import PhotoView, Views
from caco_jax.nets import ViT

FASHION = "idx:/usr/share/datasets/fashion-mnist"
# Grey images: crops and brightness, but no colours and no blur of 28 pixels.
VIEW = PhotoView(
    size_pixels=28,
    crop_scale=(0.3, 1.0),
    saturation=0.0,
    hue_turns=0.0,
    gray_probability=0.0,
    blur_probability=0.0,
)


def main():
    """Trains, or loads a finished run, and prints the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default=FASHION, help="the images")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="made-up images, 1 epoch")
    flags = parser.parse_args()
    workdir = f"runs/vit_fashion_{flags.seed}"
    run = caco_jax.Pretraining(
        method=caco_jax.methods.moco(queue_size=64 if flags.smoke else 4096),
        encoder=ViT(
            width=192,  # ViT-Tiny with fewer blocks and smaller patches
            depth=1 if flags.smoke else 6,
            heads=3,
            patch_size=7,
            pooling="mean",
            positions="sincos",
            fixed_patches=True,
        ),
        projector=(512, 128),
        views=Views((VIEW, VIEW), mean=(0.286,), std=(0.353,)),
        data=caco_jax.data.load("fake:28x28x1x64" if flags.smoke else flags.source),
        optimizers={"encoder": optax.adamw(5e-4, weight_decay=0.05)},
        batch_size=32 if flags.smoke else 256,
        epochs=1 if flags.smoke else flags.epochs,
        seed=flags.seed,
    )
    run.fit(workdir)  # run again to resume, or to load a finished run
    trained = run.load(workdir)
    print("Garments that were not seen, by their nearest neighbours:")
    for kind in ("backbone", "random", "raw"):
        print(f"  {kind}: {trained.knn(kind=kind):.2%}")


if __name__ == "__main__":
    main()
