"""Make the models known to the Auto classes of transformers, and the task to its pipelines, without importing either.

`import shine_hf` calls [`install`]. Each action below then runs right after the module it needs has been imported, or at once where that
has happened before. So `AutoModel.from_pretrained(…)` and `pipeline("video-moment-retrieval", …)` work after `import shine_hf`, in whichever
order the two packages are imported, and `import shine_hf` itself stays cheap.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

CONFIGS = {"qd_detr": "QDDetrConfig", "moment_detr": "MomentDetrConfig"}
PROCESSOR = "MomentRetrievalProcessor"
TASK = "video-moment-retrieval"


def install() -> None:
    """Run each action when its module is imported, or now if it already is."""
    sys.meta_path.insert(0, _AfterImport())
    for name, action in _ACTIONS.items():
        if name in sys.modules:
            action(sys.modules[name])


def _announce_configs(auto: ModuleType) -> None:
    """Let transformers look up `model_type` in its table of names; the classes are imported when they are needed."""
    auto.CONFIG_MAPPING_NAMES.update(CONFIGS)
    for model_type in CONFIGS:
        # Where transformers looks for the classes of a model type. `shine_hf` imports its public names lazily.
        sys.modules[f"transformers.models.{model_type}"] = sys.modules["shine_hf"]


def _announce_feature_extractor(auto: ModuleType) -> None:
    auto.FEATURE_EXTRACTOR_MAPPING_NAMES.update(dict.fromkeys(CONFIGS, PROCESSOR))


def _register_models(modeling: ModuleType) -> None:
    """Register the classes themselves. There is no Auto class for moment retrieval, so `AutoModel` gives the model with heads."""
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

    processor = getattr(modeling, PROCESSOR)
    for model_type, config_name in CONFIGS.items():
        config_class = getattr(modeling, config_name)
        model_class = getattr(modeling, config_name.replace("Config", "ForMomentRetrieval"))
        AutoConfig.register(model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)
        AutoFeatureExtractor.register(config_class, processor, exist_ok=True)
        AutoProcessor.register(config_class, processor, exist_ok=True)


class _Task(dict):
    """What transformers keeps of a pipeline, whose class is imported when it is asked for."""

    def __missing__(self, key: str) -> type:
        if key != "impl":
            raise KeyError(key)
        from .inference.pipeline import VideoMomentRetrievalPipeline

        return self.setdefault(key, VideoMomentRetrievalPipeline)


def _announce_pipeline(pipelines: ModuleType) -> None:
    # `register_pipeline` needs the class now, which would be a circle where the import of our pipeline is what imports this module.
    pipelines.PIPELINE_REGISTRY.supported_tasks[TASK] = _Task(pt=(pipelines.AutoModel,), type="multimodal")


_ACTIONS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _announce_configs,
    "transformers.models.auto.feature_extraction_auto": _announce_feature_extractor,
    "transformers.pipelines": _announce_pipeline,
    "shine_hf.modeling": _register_models,
}


class _AfterImport(MetaPathFinder):
    """Finds the modules of `_ACTIONS` as usual, and runs their action after their code."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _ACTIONS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _ACTIONS[name](module)

            setattr(spec.loader, "exec_module", exec_module)  # noqa: B010
        return spec
