"""The parts of a training step, recognised by the names in a compiled program."""

GAME = "game"
OTHER = "other"
PARTS = (
    GAME,
    "batchnorm",
    "encoder gradient",
    "encoder",
    "views",
    "optimizer",
    OTHER,
)

# What a name contains -> the part, the first that fits. The scopes are set in
# `training.step` and `nets.norm`; "Encoder" is the module's name. All of the payoff
# that is no encoder's is the game: its embeddings' traffic and its metrics', too.
_SCOPES = (
    ("batchnorm", "batchnorm"),
    ("/views/", "views"),
    ("/optimizer/", "optimizer"),
    ("Encoder", "encoder"),
    ("payoff", GAME),
)


def part_of(op_name: str) -> str:
    """The part of the train step that an op_name belongs to, one of `PARTS`."""
    for scope, part in _SCOPES:
        if scope in op_name:
            backward = part == "encoder" and "transpose(" in op_name
            return "encoder gradient" if backward else part
    return OTHER
