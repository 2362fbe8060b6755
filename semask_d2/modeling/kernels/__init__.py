"""Tensor functions with several implementations: a plain formula, one for CPUs, and Triton kernels for GPUs.

`plain_*` are formulas in standard operators; `cpu_*` and `triton_*` compute the same faster on a CPU or a GPU. The
layers choose among them. Letters in shapes are those of `layers`.
"""
