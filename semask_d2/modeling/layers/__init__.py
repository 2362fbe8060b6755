"""Building blocks: plain torch modules and functions that depend on no model, config or Detectron2.

Letters in shapes: B batch, C channels, H W pixels, N tokens, K classes, Q queries, P points, M masks, L decoder layers.
"""
