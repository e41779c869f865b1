"""Your own pictures: settings that fit themselves to the set and to the machine.

Paper:     arXiv:2203.14370 (CaCo, the method that it begins with; the rest is ours)
Expected:  depends on your pictures; not measured
Cost:      --dry_run says it: memory, and how long the run will take
Command:   caco pretrain --config=photos --source=folder:PATH --workdir=runs/photos
Variants:  caco, adco, moco, simclr

Network, views, batch, bank or queue, start-up, epochs and rates follow from the number
and the size of the pictures and from the device; the first lines of a run say each
choice and why. --config.KEY=VALUE sets one, and the others follow it. What stands here
is for an accelerator and many pictures.
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
    """The recipe, before it is fitted."""
    methods = [name for name in variant.split(":") if name in VARIANTS]
    config = photos((methods or ["caco"])[-1])
    return with_variant(config, variant, VARIANTS)
