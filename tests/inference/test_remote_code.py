"""A pushed model in an environment that has only transformers: a new process in which shine_hf cannot be imported."""

import json
import subprocess
import sys

import pytest
from transformers import AutoConfig

from shine_hf import MomentRetrievalProcessor

from ..modeling.helpers import tiny_model

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "shine_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""
USE = """
import json
import numpy as np
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor, pipeline

folder = sys.argv[1]
rng = np.random.default_rng(0)
video, query = rng.normal(size=(9, 12)).astype("f"), rng.normal(size=(4, 8)).astype("f")
find = pipeline("video-moment-retrieval", folder, trust_remote_code=True)
found = find(video=video, query=query, top_k=2)
assert pipeline(model=folder, trust_remote_code=True)(video, [query], top_k=2) == [found]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
for auto in (AutoFeatureExtractor, AutoProcessor):
    processor = auto.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(videos=video, text=query, return_tensors="pt")
    (result,) = processor.post_process_moment_retrieval(model(**inputs), inputs["video_attention_mask"], top_k=2)
    assert result["moments"] == found["moments"], (result, found)
errors = []
for arguments in (("kitchen.mp4", query), (video, "a person opens the fridge")):
    try:
        find(*arguments)
    except ValueError as error:
        errors.append(str(error))
find.save_pretrained(sys.argv[2])
assert pipeline(model=sys.argv[2], trust_remote_code=True)(video, query, top_k=2) == found
assert not [name for name in sys.modules if name.partition(".")[0] == "shine_hf"]
print(json.dumps({"found": found, "errors": errors}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pushed")
    model = tiny_model("qd_detr", video_encoder="pixels:size=2,frames=1", text_encoder="words:dim=8")
    model.save_pretrained(folder)
    MomentRetrievalProcessor.from_config(model.config).save_pretrained(folder)
    return folder


def test_pushed_model_works_without_shine_hf(folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HIDE + USE, str(folder), str(tmp_path / "again")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert len(printed["found"]["moments"]) == 2 and len(printed["found"]["saliency"]) == 9
    assert len(printed["errors"]) == 2
    for error in printed["errors"]:
        assert 'pip install "shine-hf[video]"' in error and "import shine_hf" in error


def test_saved_config_names_the_pipeline_and_shine_hf_ignores_it(folder):
    saved = json.loads((folder / "config.json").read_text())["custom_pipelines"]
    assert saved == {
        "video-moment-retrieval": {"impl": "pipeline_moment_retrieval.MomentRetrievalPipeline", "pt": ["AutoModel"]}
    }
    assert not hasattr(AutoConfig.from_pretrained(folder), "custom_pipelines")
