"""First convolutions of models with another number of input channels than the RGB of pretrained weights."""

from __future__ import annotations

import torch

from semask_d2.checkpoint.conversion import State, takes_other_channels

RGB = 3


def fit_stem(state: State, model_state: State, *, flip: bool = False) -> tuple[State, list[str]]:
    """Fit the first convolution of an RGB model to a model of other channels; also return a note for the log.

    Further channels get zero weights, so that at first they change no feature. One or two channels share the sum over
    RGB, so that a gray image gives the features it gives as RGB. `flip` states that the weights are for BGR.
    """
    stem = stem_of(state, model_state)
    if stem is None or state[stem].shape[1] != RGB:
        return state, []
    weight, count = state[stem], model_state[stem].shape[1]
    if count < RGB:
        fitted = weight.sum(1, keepdim=True).expand(-1, count, -1, -1) / count
        done = "the sum over RGB" if count == 1 else f"1/{count} of the sum over RGB each"
        note = f"{stem} fitted to {count} channel(s): {done}"
    else:
        extra = weight.new_zeros(len(weight), count - RGB, *weight.shape[2:])
        fitted = torch.cat([weight.flip(1) if flip else weight, extra], 1)
        note = f"{stem} widened from RGB to {count} channels, of which {count - RGB} start with zero weights"
    return {**state, stem: fitted}, [note]


def stem_of(state: State, model_state: State) -> str | None:
    """Return the name of a convolution of the backbone that differs only in its input channels; None without one.

    Several such tensors belong to another backbone.
    """
    names = [
        name
        for name, value in state.items()
        if name.startswith("backbone.") and name in model_state and takes_other_channels(value, model_state[name])
    ]
    return names[0] if len(names) == 1 else None
