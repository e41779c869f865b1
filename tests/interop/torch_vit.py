"""A vision transformer in a page of PyTorch, from its equations, under timm's names."""


def vit(torch, *, width, heads, depth, patch, grid, token, channels=3):
    """[N, C, H, W] -> [N, D], of random weights: no layer of PyTorch's is used.

    z = [cls, patches E + b] + p; z += MSA(LN(z)) and z += MLP(LN(z)) a block; LN(z), of
    which the class token or else the mean is the feature.
    """
    generator = torch.Generator().manual_seed(0)

    def linear(outputs, inputs):
        return {"weight": (outputs, *inputs), "bias": (outputs,)}

    norm = {"weight": (width,), "bias": (width,)}
    shapes = {"patch_embed.proj": linear(width, (channels, patch, patch)), "norm": norm}
    for i in range(depth):
        shapes |= {
            f"blocks.{i}.norm1": norm,
            f"blocks.{i}.attn.qkv": linear(3 * width, (width,)),
            f"blocks.{i}.attn.proj": linear(width, (width,)),
            f"blocks.{i}.norm2": norm,
            f"blocks.{i}.mlp.fc1": linear(4 * width, (width,)),
            f"blocks.{i}.mlp.fc2": linear(width, (4 * width,)),
        }
    state = {
        f"{layer}.{name}": torch.randn(shape, generator=generator) * 0.3
        for layer, arrays in shapes.items()
        for name, shape in arrays.items()
    }
    state["pos_embed"] = torch.randn(1, token + grid**2, width, generator=generator)
    if token:
        state["cls_token"] = torch.randn(1, 1, width, generator=generator)

    def norm_of(x, layer):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{layer}.weight"] + state[f"{layer}.bias"]

    def dense(x, layer):
        return x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]

    def attention(x, layer):
        parts = dense(x, f"{layer}.qkv").split(width, dim=-1)  # queries, keys, values
        size, found = width // heads, []
        for head in range(heads):
            q, k, v = (part[..., head * size : (head + 1) * size] for part in parts)
            scores = (q @ k.transpose(1, 2)) / size**0.5
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            found.append(weights @ v)
        return dense(torch.cat(found, dim=-1), f"{layer}.proj")

    def forward(images):
        rows = [
            images[:, :, i : i + patch, j : j + patch].flatten(1)
            for i in range(0, images.shape[2], patch)
            for j in range(0, images.shape[3], patch)
        ]
        kernel = state["patch_embed.proj.weight"].flatten(1)
        x = torch.stack(rows, 1) @ kernel.T + state["patch_embed.proj.bias"]
        if token:
            x = torch.cat([state["cls_token"].expand(len(x), 1, width), x], dim=1)
        x = x + state["pos_embed"]
        for i in range(depth):
            x = x + attention(norm_of(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn")
            y = dense(norm_of(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
            y = y * (1 + torch.erf(y / 2**0.5)) / 2
            x = x + dense(y, f"blocks.{i}.mlp.fc2")
        x = norm_of(x, "norm")
        return x[:, 0] if token else x.mean(1)

    return state, forward
