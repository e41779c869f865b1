"""Networks, as flax.linen modules."""
