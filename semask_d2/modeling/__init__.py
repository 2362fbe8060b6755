"""Models: layers, backbones, decoders, heads, losses and meta-architectures. Their packages register them."""
