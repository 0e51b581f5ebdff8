"""Build Shapes-CG: annotations, MP4 files and a contact sheet for inspection.

python dataset_scripts/shapes_cg.py --output-dir DIR [--seed 0] [--train-videos 3000 …]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Sequence

import datasets

from shine_hf.schema import FEATURES
from shine_hf.shapes_cg.rendering import contact_sheet
from shine_hf.shapes_cg.world import SPLITS, ShapesCG

SETTINGS = {field.name: field for field in dataclasses.fields(ShapesCG) if field.init}
CONTACT_SHEET_VIDEOS = 3


@dataclasses.dataclass
class ShapesConfig(datasets.BuilderConfig):
    """The seed and the sizes of a benchmark.

    Args:
        world: The benchmark.
    """

    world: ShapesCG = dataclasses.field(default_factory=ShapesCG)

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Identify a config by its settings, so that a cached build with other settings is not reused."""
        settings = {name: getattr(self.world, name) for name in SETTINGS}
        return super().create_config_id({**config_kwargs, "world": settings}, custom_features)


class ShapesCGBuilder(datasets.GeneratorBasedBuilder):
    """Build the rows of Shapes-CG with the columns of `shine_hf.schema.FEATURES`, without downloads.

    Call `ShapesCGBuilder(world=ShapesCG(seed=1), cache_dir=…).download_and_prepare()`, then `as_dataset()`.
    """

    BUILDER_CONFIG_CLASS = ShapesConfig
    BUILDER_CONFIGS = [ShapesConfig(name="default", description="seed 0, 3,000 training videos")]
    DEFAULT_CONFIG_NAME = "default"
    VERSION = datasets.Version("1.0.0")

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="A synthetic video benchmark of compositional temporal grounding.", features=FEATURES
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in SPLITS]

    def _generate_examples(self, split: str):
        yield from enumerate(self.config.world.rows(split))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the benchmark to a folder: `{split}.jsonl`, `videos/{vid}.mp4`, `contact_sheet.png`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True)
    for name, field in SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(field.default), default=field.default)
    args = parser.parse_args(argv)
    try:
        world = ShapesCG(**{name: getattr(args, name) for name in SETTINGS})
        folder = world.write(args.output_dir)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    videos = list(itertools.chain.from_iterable(world.videos(split) for split in SPLITS))
    contact_sheet(videos[:CONTACT_SHEET_VIDEOS], folder / "contact_sheet.png")
    print(f"{folder}: {len(videos):,} videos")
    return 0


if __name__ == "__main__":
    sys.exit(main())
