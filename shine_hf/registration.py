"""Register the models with the Auto classes of transformers and the task with its pipelines, without importing either.

`import shine_hf` calls [`install`]. Each action below runs right after the module that it needs is imported, or immediately if the module
is already loaded. So `AutoModel.from_pretrained(…)` and `pipeline("video-moment-retrieval", …)` work regardless of the order in which the
two packages are imported, and `import shine_hf` itself stays cheap.
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


def _register_configs(auto: ModuleType) -> None:
    """Add the model types to transformers' table of config names. The classes are imported on first use."""
    auto.CONFIG_MAPPING_NAMES.update(CONFIGS)
    for model_type in CONFIGS:
        # transformers looks for the classes of a model type in this module. `shine_hf` imports its public names lazily.
        sys.modules[f"transformers.models.{model_type}"] = sys.modules["shine_hf"]


def _register_feature_extractor(auto: ModuleType) -> None:
    auto.FEATURE_EXTRACTOR_MAPPING_NAMES.update(dict.fromkeys(CONFIGS, PROCESSOR))


def _register_models(modeling: ModuleType) -> None:
    """Register the classes themselves. There is no Auto class for moment retrieval, so `AutoModel` returns the model with its heads."""
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
    """An entry of transformers' pipeline registry that imports the pipeline class on first access."""

    def __missing__(self, key: str) -> type:
        if key != "impl":
            raise KeyError(key)
        from .inference.pipeline import VideoMomentRetrievalPipeline

        return self.setdefault(key, VideoMomentRetrievalPipeline)


def _register_pipeline(pipelines: ModuleType) -> None:
    # Not `register_pipeline`, which needs the class now: our pipeline module imports `transformers.pipelines`, so that would be circular.
    pipelines.PIPELINE_REGISTRY.supported_tasks[TASK] = _Task(pt=(pipelines.AutoModel,), type="multimodal")


_ACTIONS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.feature_extraction_auto": _register_feature_extractor,
    "transformers.pipelines": _register_pipeline,
    "shine_hf.modeling": _register_models,
}


class _AfterImport(MetaPathFinder):
    """Find the modules of `_ACTIONS` as usual, and run each module's action after its code."""

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
