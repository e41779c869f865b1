"""A vision transformer, ViT-Tiny, on Fashion-MNIST, from scratch, with SimCLR.

    python examples/vit_fashion.py

The four files of Fashion-MNIST are expected in /usr/share/datasets/fashion-mnist, the
directory of Debian's package dataset-fashion-mnist; `--source=idx:FOLDER` names another
directory and `--seed=1` another seed. It takes half an hour on a CPU.
"""

import argparse

import optax

import caco_jax
from caco_jax.data import PhotoView, Views
from caco_jax.nets import ViT

FASHION = "idx:/usr/share/datasets/fashion-mnist"
# Grey images: mild crops, strong jitter of the grey levels, no colours, no blur.
VIEW = PhotoView(
    size_pixels=28,
    crop_scale=(0.6, 1.0),
    crop_aspect=(1 / 1.1, 1.1),
    brightness=0.6,
    contrast=0.6,
    saturation=0.0,
    hue_turns=0.0,
    gray_probability=0.0,
    blur_probability=0.0,
)


def main():
    """Trains, or loads a finished run, and prints the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default=FASHION, help="the images")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="made-up images, 1 epoch")
    flags = parser.parse_args()
    data = caco_jax.data.load("fake:28x28x1x64" if flags.smoke else flags.source)
    batch, epochs = (32, 1) if flags.smoke else (128, flags.epochs)
    steps = max(1, epochs * (data.train_count // batch))  # of 0, the run complains
    rate = optax.warmup_cosine_decay_schedule(0, 5e-4, min(100, steps // 2), steps)
    workdir = f"runs/vit_fashion_{flags.seed}"
    run = caco_jax.Pretraining(
        method=caco_jax.methods.simclr(temperature=0.05),
        encoder=ViT(  # the sizes of ViT-Tiny; the others as MoCo v3 recommends
            width=192,
            depth=1 if flags.smoke else 12,
            heads=3,
            patch_size=14,
            positions="sincos",
            fixed_patches=True,
        ),
        projector=(512, 128),
        views=Views((VIEW, VIEW), mean=(0.286,), std=(0.353,)),
        data=data,
        optimizers={"encoder": optax.adamw(rate, weight_decay=0.05)},
        batch_size=batch,
        epochs=epochs,
        seed=flags.seed,
    )
    run.fit(workdir)  # run again to resume, or to load a finished run
    trained = run.load(workdir)
    print("Garments that were not seen, by their nearest neighbours:")
    for kind in ("backbone", "random", "raw"):
        print(f"  {kind}: {trained.knn(kind=kind):.2%}")


if __name__ == "__main__":
    main()
