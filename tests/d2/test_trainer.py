"""`TrainerBase`, `HookBase` and the hooks."""

from __future__ import annotations

import pytest
import torch

from semask_d2.d2 import EventWriter, HookBase, TrainerBase, get_event_storage, hooks


class Loop(TrainerBase):
    """Records its iterations, and fails at a given one."""

    def __init__(self, *, fail_at=None):
        super().__init__()
        self.fail_at = fail_at
        self.done = []

    def run_step(self):
        if self.iter == self.fail_at:
            raise FloatingPointError("loss")
        self.done.append(self.iter)
        self.after_backward()
        if hasattr(self, "optimizer"):
            self.optimizer.step()  # torch requires it before the scheduler's step


class Diary(HookBase):
    """Records its calls, with the trainer's and the storage's iteration."""

    def __init__(self):
        self.entries = []

    def note(self, moment):
        self.entries.append((moment, self.trainer.iter, self.trainer.storage.iter))

    def before_train(self):
        self.note("before_train")

    def before_step(self):
        self.note("before_step")

    def after_backward(self):
        self.note("after_backward")

    def after_step(self):
        assert get_event_storage() is self.trainer.storage
        self.note("after_step")

    def after_train(self):
        self.note("after_train")


class Counter(HookBase):
    """Counts the iterations over all parts of a resumed run."""

    count = 0

    def after_step(self):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


class Rewriter(HookBase):
    """Sets the iteration back before the first one, as a hook does that writes a checkpoint of a resumed run."""

    def before_train(self):
        self.trainer.iter -= 1


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (2, 4), (4, 4)])
def test_a_hook_that_sets_the_iteration_repeats_none(start, stop):
    loop, diary = Loop(), Diary()
    loop.register_hooks([Rewriter(), diary])
    loop.train(start, stop)
    assert loop.done == list(range(start, stop))
    steps = [iteration for moment, iteration, _ in diary.entries if moment == "before_step"]
    assert steps == loop.done


def test_hooks_are_called_around_each_iteration():
    loop, diary = Loop(), Diary()
    loop.register_hooks([diary, None])
    loop.train(3, 5)
    assert loop.done == [3, 4]
    assert (loop.start_iter, loop.max_iter) == (3, 5)
    around = ("before_step", "after_backward", "after_step")
    assert diary.entries == [
        ("before_train", 3, 3),
        *((moment, 3, 3) for moment in around),
        *((moment, 4, 4) for moment in around),
        ("after_train", 5, 5),
    ]


def test_hooks_are_called_in_the_order_of_their_registration():
    order = []

    class Named(HookBase):
        def __init__(self, name):
            self.name = name

        def after_step(self):
            order.append(self.name)

    loop = Loop()
    loop.register_hooks([Named("a"), Named("b")])
    loop.register_hooks([Named("c")])
    loop.train(0, 1)
    assert order == ["a", "b", "c"]


def test_a_failed_iteration_ends_training_with_after_train_at_that_iteration(d2_log):
    loop, diary = Loop(fail_at=2), Diary()
    loop.register_hooks([diary])
    with pytest.raises(FloatingPointError):
        loop.train(0, 5)
    assert diary.entries[-1] == ("after_train", 2, 2)
    (record,) = [record for record in d2_log.records if "Exception during training" in record.getMessage()]
    assert record.name == "detectron2.engine.train_loop"  # a filter there may keep the traceback out of the log
    assert isinstance(record.exc_info[1], FloatingPointError)
    with pytest.raises(AssertionError):
        get_event_storage()


def test_a_hook_that_fails_before_the_timer_began_is_the_error_that_is_seen():
    class Failing(HookBase):
        def before_train(self):
            raise FileNotFoundError("the hook's own")

    loop = Loop()
    loop.register_hooks([Failing(), hooks.IterationTimer()])
    with pytest.raises(FileNotFoundError, match="the hook's own"):
        loop.train(0, 1)


def test_a_loop_needs_a_step():
    with pytest.raises(NotImplementedError):
        TrainerBase().train(0, 1)


def test_hooks_hold_their_trainer_weakly():
    loop, counter = Loop(), Counter()
    loop.register_hooks([counter])
    assert counter.trainer.done is loop.done
    del loop
    with pytest.raises(ReferenceError):
        _ = counter.trainer.done


def test_iteration_and_hook_states_are_saved_and_restored():
    loop = Loop()
    loop.register_hooks([Diary(), Counter()])
    loop.train(0, 4)
    state = loop.state_dict()
    assert state == {"iteration": 4, "hooks": {"Counter": {"count": 4}}}

    resumed, counter = Loop(), Counter()
    resumed.register_hooks([counter])
    resumed.load_state_dict(state)
    assert (resumed.iter, counter.count) == (4, 4)


def test_the_state_of_a_hook_that_is_not_there_is_dropped_with_a_warning(d2_log):
    loop = Loop()
    assert loop.state_dict() == {"iteration": 0}
    loop.load_state_dict({"iteration": 7, "hooks": {"Counter": {"count": 4}}})
    assert loop.iter == 7
    assert "Cannot find the hook 'Counter'" in d2_log.text


def test_the_timer_leaves_the_first_iterations_out(d2_log):
    loop = Loop()
    loop.register_hooks([hooks.IterationTimer(warmup_iter=3)])
    loop.train(10, 16)
    times = loop.storage.history("time").values()
    assert [iteration for _, iteration in times] == [12, 13, 14, 15]
    assert all(seconds >= 0 for seconds, _ in times)
    assert "Total training time: 0:00:0" in d2_log.text


@pytest.fixture
def optimizer():
    small, large = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1)
    groups = [{"params": small.parameters(), "lr": 1.0}, {"params": large.parameters(), "lr": 0.5}]
    return torch.optim.SGD(groups, lr=1.0)


def halving(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)


@pytest.mark.parametrize("given", [True, False], ids=["given", "the trainer's"])
def test_the_learning_rate_is_put_as_it_was_used_and_then_stepped(optimizer, given):
    loop, scheduler = Loop(), halving(optimizer)
    loop.optimizer, loop.scheduler = optimizer, None if given else scheduler
    loop.register_hooks([hooks.LRScheduler(optimizer, scheduler) if given else hooks.LRScheduler()])
    loop.train(0, 3)
    assert loop.storage.history("lr").values() == [(0.5, 0), (0.25, 1), (0.125, 2)]
    assert loop.storage.latest_with_smoothing_hint()["lr"] == (0.125, 2)
    assert optimizer.param_groups[0]["lr"] == 0.125


def test_of_groups_with_one_parameter_each_the_commonest_rate_is_shown():
    rates = [0.1, 0.2, 0.2]
    optimizer = torch.optim.SGD([{"params": torch.nn.Parameter(torch.zeros(1)), "lr": rate} for rate in rates])
    assert hooks.LRScheduler.get_best_param_group_id(optimizer) == 1


def test_the_schedule_is_part_of_the_state(optimizer):
    loop = Loop()
    loop.optimizer = optimizer
    loop.register_hooks([hooks.LRScheduler(optimizer, halving(optimizer))])
    loop.train(0, 2)
    state = loop.state_dict()

    resumed, scheduler = Loop(), halving(optimizer)
    resumed.register_hooks([hooks.LRScheduler(optimizer, scheduler)])
    resumed.load_state_dict(state)
    assert scheduler.last_epoch == 2


class Notes(EventWriter):
    def __init__(self):
        self.written = []
        self.closed = 0

    def write(self):
        self.written.append(get_event_storage().iter)

    def close(self):
        self.closed += 1


@pytest.mark.parametrize(("end", "written"), [(6, [2, 5, 6]), (7, [2, 5, 6, 7])])
def test_writers_write_each_period_and_at_the_end_and_are_closed(end, written):
    loop, notes = Loop(), Notes()
    loop.register_hooks([hooks.PeriodicWriter([notes], period=3)])
    loop.train(0, end)
    assert notes.written == written
    assert notes.closed == 1


def test_writers_write_the_values_before_a_failure():
    loop, notes = Loop(fail_at=1), Notes()
    loop.register_hooks([hooks.PeriodicWriter([notes], period=3)])
    with pytest.raises(FloatingPointError):
        loop.train(0, 5)
    assert (notes.written, notes.closed) == ([1], 1)


def test_only_writers_write():
    with pytest.raises(AssertionError):
        hooks.PeriodicWriter([object()])


class Saved:
    """Replacement for a checkpointer."""

    path_manager = None

    def __init__(self):
        self.names = []

    def save(self, name, **state):
        self.names.append((name, state))


@pytest.mark.parametrize(("end", "periodic"), [(4, [1, 3]), (5, [1, 3])])
def test_checkpoints_are_saved_each_period_and_at_the_end(end, periodic):
    loop, saved = Loop(), Saved()
    loop.register_hooks([hooks.PeriodicCheckpointer(saved, 2)])
    loop.train(0, end)
    expected = [(f"model_{iteration:07d}", {"iteration": iteration}) for iteration in periodic]
    assert saved.names == [*expected, ("model_final", {"iteration": end - 1})]


@pytest.mark.parametrize(
    ("period", "after_train", "calls"),
    [(2, True, [1, 3, 6]), (3, True, [2, 6]), (0, True, [6]), (2, False, [1, 3])],
)
def test_evaluation_runs_each_period_and_once_at_the_end(period, after_train, calls):
    loop, called = Loop(), []
    loop.register_hooks([hooks.EvalHook(period, lambda: called.append(loop.iter), after_train)])
    loop.train(0, 6)
    assert called == calls


def test_evaluation_puts_nested_figures_by_path():
    loop = Loop()
    loop.register_hooks([hooks.EvalHook(2, lambda: {"toy": {"sem_seg": {"mIoU": loop.iter}}, "speed": 2.0})])
    loop.train(0, 3)
    assert loop.storage.latest() == {"toy/sem_seg/mIoU": (3.0, 3), "speed": (2.0, 3)}
    assert loop.storage.history("toy/sem_seg/mIoU").values() == [(1.0, 1), (3.0, 3)]
    assert loop.storage.latest_with_smoothing_hint() == loop.storage.latest()


def test_evaluation_does_not_run_after_a_failure():
    loop, called = Loop(fail_at=2), []
    loop.register_hooks([hooks.EvalHook(0, lambda: called.append(1))])
    with pytest.raises(FloatingPointError):
        loop.train(0, 5)
    assert called == []


def test_evaluation_must_return_a_dict():
    loop = Loop()
    loop.register_hooks([hooks.EvalHook(1, lambda: [50.0])])
    with pytest.raises(AssertionError, match="dict"):
        loop.train(0, 2)
