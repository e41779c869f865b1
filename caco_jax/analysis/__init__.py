"""Looking at what a run learned, and at the theory behind it.

`importance` and `alpha_game`: pair weights, the identity of the gradients, turns.
`bank` and `bank_history`: what a bank or a queue does, at once and over checkpoints.
`deep_linear`, `two_layer_relu`, `relu_training`, `covariance`, `pairs`: α-CL's theory.
`snapshots`: a run as plain arrays and functions. `plots*`: figures, as PNG files.
"""
