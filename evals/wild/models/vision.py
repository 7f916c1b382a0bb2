"""Images and volumes: classified, segmented, found, made sharper."""

from evals.wild.entry import Entry, class_of, floats, image

VIT = {"image_size": 32, "patch_size": 8, "num_classes": 10, "dim": 64, "depth": 2, "heads": 8, "mlp_dim": 128}
VOLUME = floats(1, 1, 16, 16, 16)
SEGMENTS = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 3}
TV = {"weights": None, "num_classes": 10}


def vit(path, label="", **given):
    """A model of vit-pytorch."""
    return Entry("vit-pytorch", f"vit_pytorch.{path}", (image(),), {**VIT, **given}, label=label)


def timm(name, size=64, **given):
    """A model of timm."""

    def create():
        return class_of("timm:create_model")(name, num_classes=10, **given)

    return Entry("timm", create, (image(size),), label=name)


def torchvision(name, size=64, **given):
    """A classifier of torchvision."""
    return Entry("torchvision", f"torchvision.models:{name}", (image(size),), {**TV, **given})


def segmentation(name, **given):
    """A model of segmentation-models-pytorch."""
    return Entry(
        "segmentation-models-pytorch", f"segmentation_models_pytorch:{name}", (image(64),), {**SEGMENTS, **given}
    )


def monai(name, given, args=(VOLUME,)):
    """A network of monai."""
    return Entry("monai", f"monai.networks.nets:{name}", args, given)


def detector():
    """A detector of effdet by name, for small images."""
    config = class_of("effdet:get_efficientdet_config")("efficientdet_d0")
    config.image_size, config.num_classes = (128, 128), 4
    return class_of("effdet:EfficientDet")(config, pretrained_backbone=False)


def super_image():
    """A model of super-image that doubles the size."""
    config = class_of("super_image:EdsrConfig")(scale=2, n_resblocks=2, n_feats=16)
    return class_of("super_image:EdsrModel")(config)


def efficientnet():
    """A model of efficientnet-pytorch by name."""
    return class_of("efficientnet_pytorch:EfficientNet").from_name("efficientnet-b0", num_classes=10)


ENTRIES = (
    Entry("effdet", detector, (image(128, batch=1),)),
    Entry(
        "ultralytics", "ultralytics.nn.tasks:DetectionModel", (image(64),), {"cfg": "yolo11n.yaml", "verbose": False}
    ),
    Entry(
        "ultralytics",
        "ultralytics.nn.tasks:SegmentationModel",
        (image(64),),
        {"cfg": "yolo11n-seg.yaml", "verbose": False},
    ),
    Entry("super-image", super_image, (image(16),)),
    Entry("torchsr", "torchsr.models:edsr_baseline", (image(16),), {"scale": 2}),
    Entry("efficientnet-pytorch", efficientnet, (image(64),)),
    Entry(
        "pytorchcv",
        "pytorchcv.model_provider:get_model",
        (image(224, batch=1),),
        {"name": "seresnet10", "num_classes": 10},
    ),
    Entry(
        "pytorchcv",
        "pytorchcv.model_provider:get_model",
        (image(224, batch=1),),
        {"name": "ghostnet", "num_classes": 10},
        label="ghostnet",
    ),
    Entry("resnest", "resnest.torch:resnest50", (image(64),), {"num_classes": 10}),
    Entry("vit-pytorch", "vit_pytorch:ViT", (image(),), VIT),
    Entry("vit-pytorch", "vit_pytorch:SimpleViT", (image(),), VIT),
    vit("simple_vit_with_register_tokens:SimpleViT", label="registers"),
    vit("deepvit:DeepViT"),
    vit("cait:CaiT", cls_depth=1),
    vit("parallel_vit:ViT", label="parallel"),
    vit("vit_for_small_dataset:ViT", label="small data"),
    Entry(
        "mlp-mixer-pytorch",
        "mlp_mixer_pytorch:MLPMixer",
        (image(),),
        {"image_size": 32, "channels": 3, "patch_size": 8, "dim": 64, "depth": 2, "num_classes": 10},
    ),
    timm("resnet10t"),
    timm("vit_tiny_patch16_224", img_size=64, depth=2),
    timm("deit_tiny_distilled_patch16_224", img_size=64, depth=2),
    timm("convnext_atto"),
    timm("mobilenetv3_small_050"),
    timm("regnetx_002"),
    timm("mobilevit_xxs"),
    timm("cait_xxs24_224", img_size=64, depth=2),
    timm("poolformer_s12"),
    timm("pvt_v2_b0"),
    torchvision("mobilenet_v3_small"),
    torchvision("resnet18"),
    torchvision("squeezenet1_1"),
    torchvision("shufflenet_v2_x0_5"),
    segmentation("Unet"),
    segmentation("FPN"),
    segmentation("Linknet"),
    segmentation("PSPNet"),
    monai("UNet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": (8, 16, 32), "strides": (2, 2)}),
    monai(
        "UNETR",
        {
            "in_channels": 1,
            "out_channels": 2,
            "img_size": (16, 16, 16),
            "feature_size": 8,
            "hidden_size": 48,
            "mlp_dim": 96,
            "num_heads": 4,
        },
    ),
    monai("SegResNet", {"spatial_dims": 3, "init_filters": 8, "in_channels": 1, "out_channels": 2}),
    monai(
        "AttentionUnet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": (8, 16), "strides": (2,)}
    ),
    Entry(
        "kornia",
        "kornia.models:RRDBNet",
        (image(16),),
        {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 1, "num_grow_ch": 8},
    ),
    Entry(
        "spandrel",
        "spandrel.architectures.SwinIR:SwinIR",
        (image(16),),
        {"img_size": 16, "embed_dim": 32, "depths": [2], "num_heads": [4], "window_size": 4},
    ),
    Entry(
        "segment-anything",
        "segment_anything.modeling:ImageEncoderViT",
        (image(64),),
        {
            "img_size": 64,
            "embed_dim": 64,
            "depth": 2,
            "num_heads": 4,
            "out_chans": 32,
            "use_rel_pos": True,
            "window_size": 2,
        },
    ),
    Entry(
        "segment-anything",
        "segment_anything.modeling:TwoWayTransformer",
        (floats(2, 64, 4, 4), floats(2, 64, 4, 4), floats(2, 5, 64)),
        {"depth": 2, "embedding_dim": 64, "num_heads": 4, "mlp_dim": 128},
    ),
    Entry("facenet-pytorch", "facenet_pytorch:InceptionResnetV1", (image(96),), {"classify": True, "num_classes": 10}),
    Entry(
        "easyocr",
        "easyocr.model.vgg_model:VGG_FeatureExtractor",
        (floats(2, 1, 32, 64),),
        {"input_channel": 1, "output_channel": 32},
    ),
    Entry(
        "uniformer-pytorch",
        "uniformer_pytorch:Uniformer",
        (floats(1, 3, 4, 32, 32),),
        {"num_classes": 10, "dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "dim_head": 16},
    ),
    Entry(
        "robotic-transformer-pytorch", "robotic_transformer_pytorch:TokenLearner", (floats(2, 16, 8, 8),), {"dim": 16}
    ),
    Entry("torchcrepe", "torchcrepe.model:Crepe", (floats(2, 1024),), {"model": "tiny"}),
    Entry(
        "bpnet-lite",
        "bpnetlite.bpnet:BPNet",
        (floats(2, 4, 512),),
        {"n_filters": 16, "n_layers": 2, "n_control_tracks": 0, "trimming": 64},
    ),
)
