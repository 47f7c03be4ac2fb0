"""Segmentation models of transformers, as folders that it saves: ``--backbone hf/FOLDER``."""

from models.backbone import register_family

register_family("hf", "hf/FOLDER", "models.backbones.transformers_models.network:card")
