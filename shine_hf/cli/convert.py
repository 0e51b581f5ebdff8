"""`shine-hf convert`: convert an original Moment-DETR, QD-DETR or SHINE checkpoint to a folder for `from_pretrained`."""

from __future__ import annotations

import argparse

EXAMPLES = (
    "shine-hf convert --checkpoint model_best.ckpt --architecture qd_detr --output-dir qd_detr_hf",
    "shine-hf convert --checkpoint best.ckpt --architecture shine --clip-length 1 --output-dir shine_hf --batch-coupled-text-mask",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help="original checkpoint, e.g. model_best.ckpt"
    )
    parser.add_argument(
        "--architecture",
        required=True,
        choices=["moment_detr", "qd_detr", "shine"],
        help="which code wrote the checkpoint",
    )
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--clip-length", type=float, help="seconds per clip, if not in the checkpoint")
    parser.add_argument(
        "--video-feature-dims",
        type=int,
        nargs="+",
        help="widths of the feature types that were concatenated (2304 512 for SlowFast and CLIP), each normalized separately",
    )
    parser.add_argument(
        "--video-encoder",
        metavar="SPEC",
        help="encoder that computes the video features from a file, e.g. clip:openai/clip-vit-base-patch32; detected for CLIP and for "
        "SlowFast with CLIP",
    )
    parser.add_argument(
        "--text-encoder",
        metavar="SPEC",
        help="encoder of the queries (default: CLIP's if the text features have 512 channels)",
    )
    parser.add_argument(
        "--batch-coupled-text-mask",
        action="store_true",
        help="keep the attention mask of the public QD-DETR code, with which the samples of a batch influence each other",
    )


def main(args: argparse.Namespace) -> None:
    from ..conversion.checkpoints import load_original_checkpoint
    from ..encoders import TEXT_ENCODERS, VIDEO_ENCODERS, is_text_encoder_spec, is_video_encoder_spec
    from ..modeling import MomentRetrievalProcessor

    for option, spec, is_encoder, kinds in (
        ("--video-encoder", args.video_encoder, is_video_encoder_spec, VIDEO_ENCODERS),
        ("--text-encoder", args.text_encoder, is_text_encoder_spec, TEXT_ENCODERS),
    ):
        if spec is not None and not is_encoder(spec):
            raise ValueError(f"{option}: {spec!r} is none of {', '.join(f'{kind}:' for kind in kinds)}")
    given = ("clip_length", "video_feature_dims", "video_encoder", "text_encoder")
    overrides = {name: value for name in given if (value := getattr(args, name)) is not None}
    if args.batch_coupled_text_mask:
        if args.architecture == "moment_detr":
            raise ValueError("--batch-coupled-text-mask: Moment-DETR has no such mask")
        overrides["batch_coupled_text_mask"] = True
    model = load_original_checkpoint(args.checkpoint, args.architecture, **overrides)
    model.save_pretrained(args.output_dir)
    MomentRetrievalProcessor.from_config(model.config).save_pretrained(args.output_dir)
    config = model.config
    print(
        f"{type(model).__name__} with {model.num_parameters():,} parameters -> {args.output_dir}\n"
        f"video_dim {config.video_dim}, text_dim {config.text_dim}, {config.encoder_layers} encoder and {config.decoder_layers} decoder "
        f"layers, clip_length {config.clip_length} s\n"
        f"video_encoder {config.video_encoder or 'unknown'}, text_encoder {config.text_encoder or 'unknown'}"
    )
