"""Functions of tensors that are computed in several ways: by a plain formula, on a CPU, by Triton on a GPU.

`plain_*` are formulas in standard operators, `cpu_*` compute the same faster on a CPU, `triton_*` on a GPU. The layers
choose among them. Letters in shapes are those of `layers`.
"""
