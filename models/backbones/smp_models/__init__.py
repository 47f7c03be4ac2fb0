"""All models of segmentation_models_pytorch, by name: ``--backbone smp/ARCH:ENCODER``."""

from models.backbone import register_family

register_family("smp", "smp/ARCH:ENCODER", "models.backbones.smp_models.network:card")
