"""Images and volumes: classified, segmented, made sharper."""

from evals.wild.entry import Entry, image

VIT = {"image_size": 32, "patch_size": 8, "num_classes": 10, "dim": 64, "depth": 2, "heads": 8, "mlp_dim": 128}

ENTRIES = (
    Entry("vit-pytorch", "vit_pytorch:ViT", (image(),), VIT),
    Entry("vit-pytorch", "vit_pytorch:SimpleViT", (image(),), VIT),
    Entry("vit-pytorch", "vit_pytorch.simple_vit_with_register_tokens:SimpleViT", (image(),), VIT, label="registers"),
    Entry(
        "mlp-mixer-pytorch",
        "mlp_mixer_pytorch:MLPMixer",
        (image(),),
        {"image_size": 32, "channels": 3, "patch_size": 8, "dim": 64, "depth": 2, "num_classes": 10},
    ),
)
