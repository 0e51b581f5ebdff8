"""`import shine_hf` registers the models and the pipeline with transformers. Each test runs in a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

from .modeling.helpers import CLASSES, tiny_model

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Save a model of each kind with its processor."""
    from shine_hf import MomentRetrievalProcessor

    folders = {}
    for name in CLASSES:
        folders[name] = tmp_path_factory.mktemp(name)
        model = tiny_model(name)
        model.save_pretrained(folders[name])
        MomentRetrievalProcessor.from_config(model.config).save_pretrained(folders[name])
    return folders


def python(script: str, *args: object) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, args)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


PREPARE = "import sys\nfolders, classes = sys.argv[1::2], sys.argv[2::2]\n"
AUTO_MODEL = """
from transformers import AutoModel
for folder, name in zip(folders, classes):
    assert type(AutoModel.from_pretrained(folder)).__name__ == name
"""
PIPELINE = """
from transformers import pipeline
for folder, name in zip(folders, classes):
    assert type(pipeline("video-moment-retrieval", folder).model).__name__ == name
"""
PROCESSOR = """
from transformers import AutoFeatureExtractor, AutoProcessor
for folder in folders:
    for auto in (AutoFeatureExtractor, AutoProcessor):
        assert type(auto.from_pretrained(folder)).__name__ == "MomentRetrievalProcessor"
"""
FROM_CONFIG = """
from transformers import AutoConfig, AutoModel
for folder, name in zip(folders, classes):
    assert type(AutoModel.from_config(AutoConfig.from_pretrained(folder))).__name__ == name
"""


@pytest.mark.parametrize(
    "script",
    [
        "import shine_hf" + PIPELINE,
        pytest.param("import shine_hf" + PROCESSOR, marks=pytest.mark.slow),
        pytest.param("import shine_hf" + FROM_CONFIG, marks=pytest.mark.slow),
        "from transformers import AutoModel, AutoProcessor, pipeline; import shine_hf" + PROCESSOR + AUTO_MODEL + PIPELINE,
        pytest.param("import transformers; import shine_hf; from transformers import BertModel" + AUTO_MODEL, marks=pytest.mark.slow),
        "import shine_hf.inference.pipeline" + PIPELINE,
    ],
)  # fmt: skip
def test_models_are_registered_for_any_import_order(folders, script):
    named = [text for name, folder in folders.items() for text in (folder, CLASSES[name][1].__name__)]
    python(PREPARE + script, *named)


def test_import_loads_no_heavy_package():
    python(
        "import sys, shine_hf\nassert not {'torch', 'transformers', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )


def test_pipelines_can_be_imported_first_by_save_pretrained(tmp_path):
    python("import sys, shine_hf\nshine_hf.QDDetrConfig().save_pretrained(sys.argv[1])", tmp_path)
    python("import shine_hf.modeling.pipeline_moment_retrieval\nimport shine_hf.inference.pipeline")
