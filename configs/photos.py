"""Your own images: settings chosen for the data set and the machine.

Paper:     arXiv:2203.14370 (CaCo, the method that it begins with; the rest is ours)
Expected:  depends on your images; not measured
Cost:      see --dry_run, which estimates memory and time
Command:   caco pretrain --config=photos --source=folder:PATH --workdir=runs/photos
Variants:  caco, adco, moco, simclr

Network, views, batch, bank or queue, start-up, epochs and rates are chosen by the
number and the size of the images and by the device; the first lines of a run state each
choice and its reason. --config.KEY=VALUE sets one of them, and the others take it into
account. The values in this file are for an accelerator and many images.
"""

from ml_collections import ConfigDict

from caco_jax.config.photos import RULES as PHOTOS
from caco_jax.config.recipe import OURS, Variants, photos, with_variant

VARIANTS: Variants = {
    name: {"method.name": name} for name in ("caco", "adco", "moco", "simclr")
}
SOURCES = {OURS: ("*", *(f"{name}/*" for name in VARIANTS))}
RULES = PHOTOS


def get_config(variant: str = "") -> ConfigDict:
    """The recipe, before its rules are applied."""
    methods = [name for name in variant.split(":") if name in VARIANTS]
    config = photos((methods or ["caco"])[-1])
    return with_variant(config, variant, VARIANTS)
