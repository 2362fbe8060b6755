"""Missing tensors: none are permitted in evaluation; at the start of training, those that it initializes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from semask_d2.checkpoint import load_weights
from semask_d2.engine import Checkpointer
from semask_d2.utils.errors import UserError
from tests.helpers.small_models import CLASSES, SmallModel, microsoft_swin, released, same, snapshot, swin_model


def save(content: dict, folder: Path) -> str:
    torch.save(content, folder / "w.pth")
    return str(folder / "w.pth")


def other_classes(state: dict[str, Tensor], classes: int) -> dict[str, Tensor]:
    """Return `state` as if it had been trained on another number of classes."""
    changed = dict(state)
    for name, value in state.items():
        extra = {CLASSES: 0, CLASSES + 1: 1}.get(value.shape[0] if value.ndim else -1)
        if extra is not None and ("class_embed" in name or "mlp_cls" in name or "conv_seg" in name):
            changed[name] = torch.randn(classes + extra, *value.shape[1:])
    return changed


def assert_refused(model: SmallModel, path: str, match: str, **kwargs: bool) -> None:
    before = snapshot(model)
    with pytest.raises(UserError, match=match) as caught:
        load_weights(model, path, **kwargs)
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)
    assert same(snapshot(model), before)


def test_imagenet_weights_start_a_training_and_nothing_else(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    path = save(microsoft_swin(swin_model()), tmp_path)
    model = swin_model()
    assert_refused(model, path, r"\(ImageNet Swin of Microsoft\).*a backbone to start training from")
    report = load_weights(model, path, training_start=True)
    new = {name.split(".")[1] if "backbone" in name else name.split(".")[0] for name in report.missing}
    assert new == {"layers", "norm0", "norm1", "norm2", "norm3", "sem_seg_head"}
    assert all("semantic_layer" in name for name in report.missing if "layers" in name and "backbone" in name)
    words = "tensors are newly initialized, which ImageNet Swin of Microsoft files lack"
    assert f"{len(report.missing)} {words}" in log.text
    assert "(semantic layers, output norms and head)" in log.text


@pytest.mark.parametrize(
    "name", ["layers.1.blocks.0.attn.qkv.weight", "patch_embed.proj.bias", "layers.2.downsample.norm.weight"]
)
@pytest.mark.parametrize("fault", ["missing", "mis-shaped"])
def test_an_incomplete_backbone_starts_nothing(tmp_path: Path, name: str, fault: str) -> None:
    content = microsoft_swin(swin_model())
    if fault == "missing":
        del content["model"][name]
    else:
        content["model"][name] = torch.zeros(3)
    fault_text = rf"1 missing: backbone\.{name}" if fault == "missing" else rf"1 misshaped: backbone\.{name} \(3,\)"
    assert_refused(swin_model(), save(content, tmp_path), fault_text, training_start=True)


def test_a_shallower_backbone_starts_nothing(tmp_path: Path) -> None:
    content = microsoft_swin(swin_model())
    content["model"] = {name: value for name, value in content["model"].items() if "layers.2.blocks.1" not in name}
    assert_refused(
        swin_model(), save(content, tmp_path), r"missing: backbone\.layers\.2\.blocks\.1", training_start=True
    )


@pytest.mark.parametrize("training_start", [True, False])
@pytest.mark.parametrize("decoder", ["MSFaPN", "FPN"])
def test_a_whole_model_lacks_nothing_for_any_purpose(tmp_path: Path, decoder: str, training_start: bool) -> None:
    state = snapshot(swin_model(decoder))
    del state["backbone.norm2.weight"]
    path = save(released(decoder, state), tmp_path)
    assert_refused(swin_model(decoder), path, r"1 missing: backbone\.norm2\.weight", training_start=training_start)


@pytest.mark.parametrize("decoder", ["MSFaPN", "FPN"])
def test_other_classes(tmp_path: Path, log: pytest.LogCaptureFixture, decoder: str) -> None:
    state = other_classes(snapshot(swin_model(decoder)), 7)
    path = save(released(decoder, state), tmp_path)
    model = swin_model(decoder)
    assert_refused(model, path, r"check MODEL\.SEM_SEG_HEAD\.NUM_CLASSES.*misshaped")
    assert_refused(model, path, r"MODEL\.WEIGHTS_DROP_CLASS_LAYERS True.*misshaped", training_start=True)

    before = snapshot(model)
    report = load_weights(model, path, training_start=True, drop_class_layers=True)
    assert report.misshaped == []
    last = "predictor.class_embed" if decoder == "MSFaPN" else "conv_seg"
    dropped = [f"sem_seg_head.{last}.weight", f"sem_seg_head.{last}.bias"]
    for i in range(4):
        prefix = f"backbone.layers.{i}.semantic_layer.class_injection.0"
        dropped += [f"{prefix}.mlp_cls_{x}.{leaf}" for x in "qk" for leaf in ("weight", "bias")]
    assert set(report.missing) == set(dropped)
    for name, value in model.state_dict().items():
        assert torch.equal(value, (before if name in dropped else state)[name]), name
    assert "18 tensors are newly initialized, as MODEL.WEIGHTS_DROP_CLASS_LAYERS requests: " in log.text


def test_class_layers_are_dropped_even_where_they_fit(tmp_path: Path) -> None:
    """Class layers are dropped even if the numbers of classes are equal, since the classes may differ."""
    model = swin_model()
    before = snapshot(model)
    load_weights(model, save({"model": snapshot(swin_model())}, tmp_path), training_start=True, drop_class_layers=True)
    name = "sem_seg_head.predictor.class_embed.weight"
    assert torch.equal(model.state_dict()[name], before[name])


def test_dropping_class_layers_excuses_no_other(tmp_path: Path) -> None:
    state = snapshot(swin_model())
    del state["sem_seg_head.predictor.query_feat.weight"]
    path = save({"model": state}, tmp_path)
    match = r"; 1 missing: sem_seg_head\.predictor\.query_feat\.weight"
    assert_refused(swin_model(), path, match, training_start=True, drop_class_layers=True)


def test_another_number_of_queries_starts_anew_as_class_layers_do(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    model = swin_model()
    state = snapshot(swin_model())
    names = [name for name in state if "query_" in name]
    assert names
    for name in names:
        state[name] = torch.cat([state[name], state[name]])
    path = save({"model": state}, tmp_path)
    assert_refused(model, path, r"with another number of queries: check MODEL\.MASK_FORMER\.NUM_OBJECT_QUERIES")
    assert_refused(model, path, r"with other queries: to .* MODEL\.WEIGHTS_DROP_CLASS_LAYERS True", training_start=True)
    before = snapshot(model)
    load_weights(model, path, training_start=True, drop_class_layers=True)
    for name in names:
        assert torch.equal(model.state_dict()[name], before[name])
    count = len(before[names[0]])
    assert f"the model's {count} queries are re-initialized; the file has {2 * count}" in log.text


def test_queries_of_the_models_number_are_kept_where_class_layers_are_dropped(tmp_path: Path) -> None:
    model, state = swin_model(), snapshot(swin_model())
    load_weights(model, save({"model": state}, tmp_path), training_start=True, drop_class_layers=True)
    for name in (name for name in state if "query_" in name):
        assert torch.equal(model.state_dict()[name], state[name])


def test_unexpected_tensors_are_warned_of(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    state = snapshot(swin_model()) | {"backbone.layers.2.blocks.2.norm1.weight": torch.ones(32)}
    report = load_weights(swin_model(), save({"model": state}, tmp_path))
    assert report.unexpected == ["backbone.layers.2.blocks.2.norm1.weight"]
    warnings = [record.getMessage() for record in log.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "not in the model and ignored: backbone.layers.2.blocks.2.norm1.weight" in warnings[0]


def test_the_log_names_kind_and_counts(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    path = save(released("Mask2Former", snapshot(swin_model("Mask2Former"))), tmp_path)
    report = load_weights(swin_model("Mask2Former"), path)
    assert f"{path}: released Mask2Former: {len(report.matched)} tensors matched; 1 dropped: criterion." in log.text


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize("value", [torch.zeros(2, 3).to_sparse(), torch.zeros(3, device="meta")])
def test_tensors_without_plain_content_are_refused(tmp_path: Path, value: Tensor) -> None:
    state = snapshot(swin_model()) | {"backbone.norm0.weight": value}
    assert_refused(swin_model(), save({"model": state}, tmp_path), r"backbone\.norm0\.weight is not a dense tensor")


class TestCheckpointer:
    """Loads for the purposes of training and evaluation."""

    def test_a_start_may_lack_and_an_evaluation_may_not(self, tmp_path: Path) -> None:
        path = save(microsoft_swin(swin_model()), tmp_path)
        model = swin_model()
        with pytest.raises(UserError, match="these weights do not fit"):
            Checkpointer(model, str(tmp_path)).resume_or_load(path, resume=False)
        Checkpointer(model, str(tmp_path), training_start=True).resume_or_load(path, resume=True)
        assert torch.equal(model.backbone.patch_embed.proj.weight, torch.load(path)["model"]["patch_embed.proj.weight"])

    def test_a_resume_may_lack_nothing(self, tmp_path: Path) -> None:
        state = snapshot(swin_model())
        del state["sem_seg_head.predictor.class_embed.bias"]
        torch.save({"model": state}, tmp_path / "model_0000001.pth")
        (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
        model = swin_model()
        before = snapshot(model)
        checkpointer = Checkpointer(model, str(tmp_path), training_start=True, drop_class_layers=True)
        with pytest.raises(UserError, match=r"1 missing: sem_seg_head\.predictor\.class_embed\.bias"):
            checkpointer.resume_or_load("", resume=True)
        assert same(snapshot(model), before)

    def test_classes_are_dropped_at_the_start_only(self, tmp_path: Path) -> None:
        source, model = swin_model(), swin_model()
        name = "sem_seg_head.predictor.class_embed.weight"
        path = save({"model": snapshot(source)}, tmp_path)
        initial = snapshot(model)[name]
        checkpointer = Checkpointer(model, str(tmp_path / "run"), training_start=True, drop_class_layers=True)
        checkpointer.resume_or_load(path, resume=False)
        assert torch.equal(model.state_dict()[name], initial)
        Checkpointer(source, str(tmp_path / "run")).save("model_0000001")
        checkpointer.resume_or_load(path, resume=True)
        assert same(snapshot(model), snapshot(source))

    def test_a_file_is_read_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Checkpointer(swin_model(), str(tmp_path)).save("model_final")
        reads, torch_load = [], torch.load
        monkeypatch.setattr(torch, "load", lambda *args, **kwargs: reads.append(args) or torch_load(*args, **kwargs))
        Checkpointer(swin_model(), str(tmp_path)).resume_or_load("", resume=True)
        assert len(reads) == 1

    def test_a_run_that_cannot_resume_leaves_the_model(self, tmp_path: Path) -> None:
        Checkpointer(swin_model(), str(tmp_path)).save("model_final")
        model = swin_model()
        before = snapshot(model)
        with pytest.raises(UserError, match='no state "trainer"'):
            Checkpointer(model, str(tmp_path), trainer=torch.nn.Identity()).resume_or_load("", resume=True)
        assert same(snapshot(model), before)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64])
def test_numbers_that_no_layer_has_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    state = snapshot(swin_model())
    state["backbone.norm0.weight"] = state["backbone.norm0.weight"].to(dtype)
    words = r"backbone\.norm0\.weight has the type \w+, which no layer supports; save it as float32"
    assert_refused(swin_model(), save({"model": state}, tmp_path), words)
