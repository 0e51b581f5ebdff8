"""`shine-hf reproduce`: reproduce the paper's numbers from the files that the authors released."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = (
    "shine-hf reproduce charades_cg --checkpoint DOWNLOADS/charades --video-features I3D --text-features TEXT --data-dir SHINE/data",
    "shine-hf reproduce activitynet_cg --checkpoint best.ckpt --video-features activitynet_c3d_fc6_stride_1s.hdf5 --text-features TEXT --data-dir SHINE/data --check-only",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("dataset", choices=["charades_cg", "activitynet_cg"], help="which of the paper's benchmarks")
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="PATH",
        help="the authors' checkpoint, or the folder that contains it",
    )
    parser.add_argument(
        "--video-features",
        required=True,
        type=Path,
        metavar="PATH",
        help="I3D features of Charades (VSLNet): the folder of .npy files; C3D features of ActivityNet (MS-2D-TAN): the HDF5 file",
    )
    parser.add_argument(
        "--text-features",
        required=True,
        type=Path,
        metavar="DIR",
        help="the authors' text features, QID.npz per query",
    )
    parser.add_argument(
        "--data-dir",
        required=True,
        type=Path,
        metavar="DIR",
        help="annotations: `data` of the authors' repository, or the original JSON files",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="folder for the converted model and the results (default: reproduce_DATASET)",
    )
    parser.add_argument("--device", help="device of the model (default: a GPU if available)")
    parser.add_argument("--check-only", action="store_true", help="check the files and stop")


def main(args: argparse.Namespace) -> None:
    """Check the files, convert the checkpoint, evaluate, and print the table."""
    from ..conversion.reproduce import check_downloads, format_table, reproduce

    downloads = check_downloads(args.dataset, args.checkpoint, args.video_features, args.text_features, args.data_dir)
    if args.check_only:
        return
    output = args.output_dir or Path(f"reproduce_{args.dataset}")
    results = reproduce(downloads, output, device=args.device)
    table = format_table(args.dataset, results)
    (output / "README.md").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n\nConverted model, submissions and results: {output}")
