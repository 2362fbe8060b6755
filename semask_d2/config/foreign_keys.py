"""Names of settings in other projects (transformers, timm, segmentation_models.pytorch, mmsegmentation), with ours."""

from __future__ import annotations

HINTS = {
    # transformers
    "num_labels": "write num_classes=N (MODEL.SEM_SEG_HEAD.NUM_CLASSES)",
    "id2label": 'write class_names=["sky", ...]; for a training, `names` in the dataset\'s file',
    "label2id": 'write class_names=["sky", ...]; for a training, `names` in the dataset\'s file',
    "num_queries": "write MODEL.MASK_FORMER.NUM_OBJECT_QUERIES",
    "token": "log in with `hf auth login`, or set HF_TOKEN",
    "use_auth_token": "log in with `hf auth login`, or set HF_TOKEN",
    "cache_dir": "set HF_HOME",
    "local_files_only": "set HF_HUB_OFFLINE=1",
    "ignore_mismatched_sizes": "leave it out: create_model(name, num_classes=N, weights=SOURCE) never loads the layers "
    "of other classes",
    "torch_dtype": "set MODEL.PRECISION bf16, or call model.half()",
    "dtype": "set MODEL.PRECISION bf16, or call model.half()",
    "device_map": 'write device="cuda"',
    "trust_remote_code": "leave it out: no code of a repository is executed",
    # timm and segmentation_models.pytorch
    "pretrained": 'write weights="config" for the ImageNet weights of the config',
    "classes": "write num_classes=N, or class_names=[...]",
    "encoder_name": 'write **{"MODEL.TIMM.NAME": NAME} with a model on SeMaskTimm (*timm* in list_models)',
    "encoder_weights": 'write weights="config" for the ImageNet weights of the config',
    "checkpoint_path": "write weights=SOURCE",
    "in_chans": "see MODEL.PIXEL_MEAN, which has one number for each channel",
    "in_channels": "see MODEL.PIXEL_MEAN, which has one number for each channel",
    "drop_path_rate": "write MODEL.TIMM.DROP_PATH_RATE, or that of the backbone's section",
    "features_only": "leave it out: model.backbone(images) gives features",
    "activation": "leave it out: the model gives logits",
    # arguments of this project's other functions
    "outputs": "it is an argument of export_model",
    "data": "it is an argument of train and get_cfg",
    "config_file": "name the config as the first argument",
    "lr": "write SOLVER.BASE_LR",
    "learning_rate": "write SOLVER.BASE_LR",
    "batch_size": "write SOLVER.IMS_PER_BATCH",
    "epochs": "write SOLVER.MAX_ITER, in iterations",
    "max_iters": "write SOLVER.MAX_ITER",
    "output_dir": "write output=DIR in train, OUTPUT_DIR in a config",
    # keys of mmsegmentation's configs
    "_base_": "write _BASE_, in capitals",
    "model": "write MODEL and Detectron2's keys under it; docs/migration.md has a table for mmsegmentation",
    "optimizer": "write SOLVER.OPTIMIZER",
    "train_dataloader": "name the dataset with --data FILE",
    "data_root": "name the dataset with --data FILE",
    "load_from": "write MODEL.WEIGHTS",
    "work_dir": "write OUTPUT_DIR",
}


def foreign_hint(key: str) -> str:
    """Return what to write instead of another project's `key`, "" if it is not known."""
    return f" {HINTS[key][0].upper()}{HINTS[key][1:]}" if key in HINTS else ""
