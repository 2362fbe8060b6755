"""Mask annealing in training runs: set by the iteration, stored in checkpoints, exact when resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semask_d2.engine import Trainer
from semask_d2.engine.annealing import MaskAnnealing
from semask_d2.modeling.heads.encoder_only import annealed
from tests.helpers.encoder_only import BLOCKS, eomt_cfg

RUN = {
    "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 12,
    "SOLVER__IMS_PER_BATCH": 2,
    "DATALOADER__NUM_WORKERS": 0,
    "INPUT__CROP__SIZE": "(32, 32)",
    "INPUT__SIZE_DIVISIBILITY": 32,
    "DATASETS__TEST": "()",
    "SOLVER__EMA__ENABLED": True,
}


def run(folder: Path, iterations: int, *, resume: bool = False, stop: int | None = None) -> Trainer:
    """Train up to `iterations`; `stop` ends the run early, with a checkpoint."""
    cfg = eomt_cfg(**RUN, SOLVER__MAX_ITER=iterations, SOLVER__CHECKPOINT_PERIOD=2, OUTPUT_DIR=str(folder))
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    if stop is not None:
        hook = next(hook for hook in trainer._hooks if isinstance(hook, MaskAnnealing))
        before = hook.before_step

        def before_step() -> None:
            if trainer.iter == stop:
                raise KeyboardInterrupt
            before()

        hook.before_step = before_step
    trainer.train()
    return trainer


@pytest.mark.slow
def test_probabilities_follow_the_iterations_and_a_resumed_run_is_exact(toy_data: Path, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 6)
    for done in (2, 4, 6):
        name = "model_final" if done == 6 else f"model_{done - 1:07d}"
        state = torch.load(tmp_path / "whole" / f"{name}.pth", weights_only=False)["model"]
        stored = state["sem_seg_head.mask_probability"]
        torch.testing.assert_close(torch.as_tensor(stored), torch.tensor(annealed(BLOCKS, done / 6)))
    assert whole.checkpointer.model.sem_seg_head.mask_probability.tolist() == [0.0] * BLOCKS
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", 6, stop=4)
    parts = run(tmp_path / "parts", 6, resume=True)
    states = (x.checkpointer.model.state_dict() for x in (whole, parts))
    first, second = states
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    # an average never reaches 0, but what it evaluates does
    averaged = whole.average.model.eval().sem_seg_head
    assert averaged.mask_probability.max() > 0
    assert len(averaged.masked_blocks) == BLOCKS
