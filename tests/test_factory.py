"""Models by name, from folders, checkpoints and the hub, saved and shared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors import safe_open

import semask_d2
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY, TINY_MODEL, TINY_TRAINING
from tests.helpers.hub_server import Hub
from tests.helpers.transformers_models import reference_model

NAME = "toy_scenes/semask_swin_mini_m2f"
TINY_SETTINGS = TINY_MODEL | TINY_TRAINING


def make_images() -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    with torch.no_grad():
        for a, b in zip(one.eval()(make_images()), other.eval()(make_images()), strict=True):
            assert torch.equal(a, b)


def test_names() -> None:
    names = semask_d2.list_models()
    assert NAME in names
    assert not [name for name in names if name.startswith(("backbones/", "recipes/", "data/"))]
    assert semask_d2.list_models("ade20k/semask_swin_l*") == [x for x in names if x.startswith("ade20k/semask_swin_l")]
    assert {name.rpartition("/")[2] for name in semask_d2.list_models("semask_swin_mini_m2f")} == {
        "semask_swin_mini_m2f"
    }


@pytest.mark.parametrize("name", semask_d2.list_models())
def test_every_listed_name_is_a_config(name: str) -> None:
    assert semask_d2.get_cfg(f"{name}.yaml", fit=False).MODEL.META_ARCHITECTURE


def test_a_model_by_name() -> None:
    model = semask_d2.create_model(NAME, num_classes=3, device="cpu", **TINY_SETTINGS)
    assert model.training
    assert model(make_images()).class_logits.shape[-1] == 4
    assert len(model.description.classes) == 3
    assert len(semask_d2.create_model(NAME, **TINY_SETTINGS).description.classes) == 12


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "semask_swin_tt_m2f",
            {},
            'the package has no model of this name.*Did you mean "ade20k/semask_swin_t_m2f".*list_models',
        ),
        ("ade20k/semask_swin_x", {}, "the package has no model of this name"),
        (NAME, {"MODEL.MASK_FORMER.NUM_QUERIES": 3}, "unknown config key"),
        (NAME, {"MODEL.SWIN.DEPTHS": "x"}, "MODEL.SWIN.DEPTHS"),
    ],
)
def test_wrong_names_and_settings(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        semask_d2.create_model(name, **settings)


def test_a_name_without_a_dataset() -> None:
    from semask_d2.factory import full_model_name

    assert full_model_name("semask_swin_t_m2f") == "ade20k/semask_swin_t_m2f"
    assert full_model_name("semask_timm_lite0_m2f.yaml") == "camvid/semask_timm_lite0_m2f"
    with pytest.raises(UserError, match="models of several datasets have this name; use one of"):
        full_model_name("semask_swin_mini_msfapn_m2f")


def test_saved_and_read_again(tiny_run: Path, tmp_path: Path) -> None:
    model = semask_d2.from_pretrained(tiny_run)
    assert not model.training
    folder = tmp_path / "shared"
    model.save_pretrained(folder, license="apache-2.0")
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "model.safetensors", "README.md"}
    again = semask_d2.from_pretrained(folder)
    assert_same(model, again)
    assert again.description.classes.names == model.description.classes.names
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert "OUTPUT_DIR" not in config
    assert str(tmp_path) not in (folder / "config.yaml").read_text() + (folder / "README.md").read_text()
    header, card = (folder / "README.md").read_text().split("---\n", 2)[1:]
    assert yaml.safe_load(header)["license"] == "apache-2.0"
    assert model.description.classes.names[0] in card
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == sorted(model.state_dict())
    labels = [semask_d2.Predictor(source)(make_images()[0]).labels for source in (tiny_run, folder)]
    assert np.array_equal(*labels)


def test_a_model_with_numbered_classes_is_saved_and_loaded(tmp_path: Path) -> None:
    model = semask_d2.create_model(NAME, num_classes=2, **TINY_SETTINGS)
    model.save_pretrained(tmp_path / "one")
    again = semask_d2.from_pretrained(tmp_path / "one")
    assert len(again.description.classes) == 2
    assert_same(model, again)


def test_a_model_of_build_model_has_no_description(tmp_path: Path) -> None:
    model = semask_d2.build_model(semask_d2.get_cfg(f"{NAME}.yaml", list(TINY)))
    with pytest.raises(UserError, match=r"save_pretrained: .* create it with semask_d2.create_model"):
        model.save_pretrained(tmp_path)


def test_the_hub_and_back(hub: Hub, tiny_run: Path) -> None:
    model = semask_d2.from_pretrained(tiny_run)
    assert model.push_to_hub("me/toy") == f"{hub.address}/me/toy"
    assert set(hub.repositories["me/toy"]) == {"config.yaml", "model.safetensors", "README.md"}
    again = semask_d2.from_pretrained("me/toy")
    assert_same(model, again)
    assert_same(model, semask_d2.from_pretrained("me/toy", revision="v1"))
    assert semask_d2.Predictor("me/toy")(make_images()[0]).labels.shape == (64, 64)
    tuned = semask_d2.create_model(NAME, num_classes=5, weights="me/toy", **TINY_SETTINGS)
    backbone = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.patch_embed")}
    assert backbone
    assert all(torch.equal(tuned.state_dict()[name], value) for name, value in backbone.items())


@pytest.mark.parametrize("family", ["mask2former", "maskformer"])
def test_repositories_of_transformers(hub: Hub, family: str, tmp_path: Path) -> None:
    folder = tmp_path / "transformers"
    reference_model(family).save_pretrained(folder)
    hub.repositories["facebook/model"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = semask_d2.from_pretrained("facebook/model")
    assert_same(model, semask_d2.from_pretrained(folder))
    assert list(model.description.classes.names) == list(
        json.loads((folder / "config.json").read_text())["id2label"].values()
    )


def test_sources_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"me/model: no such file or folder here, and .* cannot be reached"):
        semask_d2.from_pretrained("me/model")
    with pytest.raises(UserError, match="me/model: no such file or folder here"):
        semask_d2.create_model(NAME, weights="me/model")


def test_the_configs_weights_must_exist() -> None:
    with pytest.raises(UserError, match=rf'weights="config": the config of {NAME} names no weights'):
        semask_d2.create_model(NAME, weights="config", **TINY_SETTINGS)


@pytest.mark.parametrize("weights", [True, False, 3, torch.nn.Identity()])
def test_weights_that_are_no_source(weights: object) -> None:
    with pytest.raises(UserError, match='weights: expected "config", a source such as'):
        semask_d2.create_model(NAME, weights=weights)


def test_the_load_report_is_kept(tiny_run: Path) -> None:
    whole = semask_d2.from_pretrained(tiny_run)
    assert whole.load_report.complete
    tuned = semask_d2.create_model(NAME, num_classes=5, weights=tiny_run, **TINY_SETTINGS)
    assert any("class_embed" in name for name in tuned.load_report.dropped)
    assert any("class_embed" in name for name in tuned.load_report.missing)
    assert semask_d2.create_model(NAME, **TINY_SETTINGS).load_report is None


def test_class_names_are_saved(tmp_path: Path) -> None:
    names = [f"kind {i}" for i in range(12)]  # as many as the config's dataset has
    model = semask_d2.create_model(NAME, class_names=names, **TINY_SETTINGS)
    model.save_pretrained(tmp_path / "mine")
    assert ", ".join(f"{i} {name}" for i, name in enumerate(names)) in (tmp_path / "mine/README.md").read_text()
    assert list(semask_d2.from_pretrained(tmp_path / "mine").description.classes.names) == names
    assert semask_d2.Predictor(tmp_path / "mine").class_names == names
    assert semask_d2.create_model(NAME, class_names=["a", "b"], **TINY_SETTINGS).num_classes == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["a", "b"], "num_classes": 3}, "class_names: 2 names, but num_classes is 3"),
        ({"class_names": ["a", "a"]}, "class_names: 'a' occurs twice"),
        ({"class_names": "sky"}, "class_names: expected a list of names"),
        ({"class_names": [1, 2]}, "class_names: expected a list of names"),
        ({"class_names": []}, "class_names: expected a list of names"),
    ],
)
def test_wrong_class_names(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        semask_d2.create_model(NAME, **options)


def test_a_panoptic_model_takes_no_class_names() -> None:
    with pytest.raises(UserError, match="class_names: a panoptic model takes its classes"):
        semask_d2.create_model("toy_scenes_panoptic/semask_swin_mini_msfapn_m2f", class_names=["a", "b"])


def test_a_card_tells_of_a_training_only_if_there_was_one(tiny_run: Path, tmp_path: Path) -> None:
    created = semask_d2.create_model(NAME, **TINY_SETTINGS)
    created.save_pretrained(tmp_path / "created")
    text = (tmp_path / "created/README.md").read_text()
    assert "iterations" not in text
    assert "trained with" not in text
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text((tiny_run / "config.yaml").read_text())
    torch.save(torch.load(tiny_run / "model_best.pth") | {"iteration": 41}, run / "model_best.pth")
    semask_d2.from_pretrained(run).save_pretrained(tmp_path / "shared")
    semask_d2.from_pretrained(tmp_path / "shared").save_pretrained(tmp_path / "again")
    for folder in ("shared", "again"):
        text = (tmp_path / folder / "README.md").read_text()
        assert "| training | 42 iterations of 4 images, crops of 64 x 64 |" in text
        assert "trained with semask_d2" in text


def test_a_config_is_no_trained_model() -> None:
    for source in (NAME, f"{NAME}.yaml", "camvid/semask_timm_lite0_m2f"):
        with pytest.raises(UserError, match=r"this is a config, not a trained model; semask_d2\.create_model"):
            semask_d2.from_pretrained(source)
    with pytest.raises(UserError, match="from_pretrained: expected the name or path of a source, got a Identity"):
        semask_d2.from_pretrained(torch.nn.Identity())


def test_weights_of_another_backbone_name_what_to_set(tmp_path: Path) -> None:
    timm_model = semask_d2.create_model("toy_scenes/semask_timm_resnet18_m2f")
    torch.save({"model": timm_model.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"of another backbone: set MODEL.WEIGHTS to weights of this one \(timm://NAME"):
        semask_d2.create_model(
            "toy_scenes/semask_timm_resnet18_m2f", weights=tmp_path / "w.pth", **{"MODEL.TIMM.NAME": "mobilenetv2_050"}
        )


def test_errors_of_a_user_have_no_causes(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"not a checkpoint")
    for call in (
        lambda: semask_d2.create_model(NAME, weights=tmp_path / "x.pth", **TINY_SETTINGS),
        lambda: semask_d2.create_model(NAME, **{"SEED": "x"}),
        lambda: semask_d2.train(NAME, weights=tmp_path / "y.pth"),
        lambda: semask_d2.Predictor(tmp_path / "x.pth"),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
