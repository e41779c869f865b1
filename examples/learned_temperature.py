"""A player of one's own: a temperature that is learned, with or against the encoder.

    python learned_temperature.py

The whole player is this file; nothing of the library knows of it. With
``move="ascend"`` the temperature is an adversary that makes the contrast as hard as it
can, with ``"descend"`` it helps. A penalty keeps it near where it started.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import caco_jax
from caco_jax.losses import nt_xent
from caco_jax.methods import (
    Method,
    Outcome,
    embedding_spread,
    encode_views,
    keep,
    online_network,
)
from caco_jax.optim import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class LearnedTemperature:
    """Settings: where the temperature starts, what it does, how free it is."""

    temperature: float = 0.2
    move: str = "ascend"
    penalty: float = 1.0

    def __call__(self, embedding_dim):
        """The method: an encoder that descends NT-Xent, and a temperature."""
        start = jnp.log(self.temperature)
        sign = 1 if self.move == "descend" else -1

        def init(key):
            del key
            return {"log_temperature": start}, {}

        def payoff(players, context, views):
            network = online_network(players, context)
            (z1, z2), online = encode_views(context.encode.online, network, views)
            log_temperature = players["log_temperature"]
            loss = nt_xent(z1, z2, temperature=jnp.exp(log_temperature))
            leash = sign * self.penalty * jnp.square(log_temperature - start)
            metrics = {
                "temperature": jnp.exp(log_temperature),
                "embedding_std": embedding_spread(z1),
            }
            return loss + leash, Outcome(online.stats, None, {}, metrics)

        return Method(
            name="learned_temperature",
            description=f"NT-Xent, whose temperature is to {self.move}",
            moves={"encoder": "descend", "log_temperature": self.move},
            uses_target=False,
            init=init,
            payoff=payoff,
            advance=keep,
            optimizers={
                "log_temperature": OptimizerConfig(
                    learning_rate=0.01, schedule="constant", weight_decay=0.0
                )
            },
            settings=self,
        )


def add_noise(key, row):
    """A view: the row under noise."""
    return row + 0.3 * jax.random.normal(key, row.shape)


if __name__ == "__main__":
    run = caco_jax.Pretraining(
        method=LearnedTemperature(move="ascend"),
        encoder=nn.Dense(32),
        views=(add_noise, add_noise),
        data=np.random.default_rng(0).normal(size=(1024, 16)).astype(np.float32),
        batch_size=128,
        epochs=5,
    )
    run.fit("runs/learned_temperature")
    for row in run.load("runs/learned_temperature").files.read_metrics():
        print(f"epoch {row['epoch']}: temperature {row['temperature']:.4f}")
