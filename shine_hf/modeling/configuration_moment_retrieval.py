"""The base configuration of all moment-retrieval models."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

Number = int | float


@strict
class MomentRetrievalConfig(PreTrainedConfig):
    r"""
    Fields shared by [`QDDetrConfig`] and [`MomentDetrConfig`]. The defaults are the settings of the SHINE paper for Charades-CG.

    Args:
        video_dim (`int`): Width of the video features, without the two temporal-endpoint features.
        text_dim (`int`): Width of the token features of a query.
        use_tef (`bool`): Append start/T and end/T to each clip, where T is the number of clips of its video.
        hidden_size (`int`): Width of the transformer. It must be even, since half of it encodes the center and half the width of an anchor,
            and a multiple of `num_attention_heads`.
        num_attention_heads (`int`): Number of heads of every attention.
        encoder_layers, decoder_layers (`int`): Number of layers of the encoder and the decoder.
        intermediate_size (`int`): Width of the feed-forward blocks.
        num_queries (`int`): Number of moment candidates that the decoder predicts (Q).
        num_input_projections (`int`): Number of blocks (layer norm, dropout, linear layer) before the transformer.
        input_dropout, dropout (`float`): Dropout of the input projections and of the transformer.
        max_video_length (`int`, *optional*): Number of clips (T) to which the processor truncates a video; `None` keeps all.
        max_text_length (`int`): Number of tokens (L) to which the processor truncates a query.
        clip_length (`float`): Seconds per clip.
        normalize_features (`bool`): Whether the processor divides each feature type of each clip and token by its L2 norm.
        video_feature_dims (`list[int]`, *optional*): Widths of the concatenated feature types, which are normalized separately and add up
            to `video_dim`; `None` for a single type.
        video_encoder, text_encoder (`str`, *optional*): Specifications of the encoders that produced the features, for
            inference on raw video and text (see `shine_hf.encoders`).
        auxiliary_loss (`bool`): Whether to supervise every decoder layer, and not only the last.
        span_loss_weight, giou_loss_weight, label_loss_weight, saliency_loss_weight (`float`): Weights of the loss terms.
        background_weight (`float`): Weight of the background class in the label term.
        matcher_span_cost, matcher_giou_cost, matcher_class_cost (`float`): Weights of the matching cost.
        saliency_margin (`float`): Margin of the saliency term for pairs of clips.
        saliency_weight (`float`): Weight of the saliency when the processor ranks the candidates. With 0, as in the papers, only their class
            counts. It does not affect training. To try another value, load with `AutoModel.from_pretrained(…, saliency_weight=2.0)`.

    Raises:
        ValueError: for sizes that do not give a valid model. Names the field.
    """

    keys_to_ignore_at_inference = ["loss_dict", "auxiliary_outputs"]

    video_dim: int = 1024
    text_dim: int = 512
    use_tef: bool = True
    hidden_size: int = 256
    num_attention_heads: int = 8
    encoder_layers: int = 2
    decoder_layers: int = 2
    intermediate_size: int = 1024
    num_queries: int = 10
    num_input_projections: int = 2
    input_dropout: Number = 0.5
    dropout: Number = 0.1
    max_video_length: int | None = None
    max_text_length: int = 32
    clip_length: Number = 0.5
    normalize_features: bool = True
    video_feature_dims: list[int] | None = None
    video_encoder: str | None = None
    text_encoder: str | None = None
    auxiliary_loss: bool = True
    span_loss_weight: Number = 10
    giou_loss_weight: Number = 1
    label_loss_weight: Number = 4
    saliency_loss_weight: Number = 1
    background_weight: Number = 0.1
    matcher_span_cost: Number = 10
    matcher_giou_cost: Number = 1
    matcher_class_cost: Number = 4
    saliency_margin: Number = 0.2
    saliency_weight: Number = 0.0

    def __post_init__(self, **kwargs):
        if not __name__.startswith("transformers_modules"):
            # With shine_hf installed, use its own pipeline, which also reads videos and needs no `trust_remote_code`.
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    def to_diff_dict(self) -> dict:
        """Return the content of `config.json`, including the pipeline to use without shine_hf."""
        # Imported here because it takes seconds. transformers still finds this import and copies the file to the model repository.
        from .pipeline_moment_retrieval import TASK, MomentRetrievalPipeline

        implementation = f"pipeline_moment_retrieval.{MomentRetrievalPipeline.__name__}"
        return super().to_diff_dict() | {"custom_pipelines": {TASK: {"impl": implementation, "pt": ["AutoModel"]}}}

    def validate_architecture(self) -> None:
        """Check the sizes, as part of the `@strict` validation.

        Raises:
            ValueError: for an invalid size. Names the field.
        """
        for name in (
            "video_dim", "text_dim", "hidden_size", "num_attention_heads", "encoder_layers", "decoder_layers",
            "intermediate_size", "num_queries", "num_input_projections", "max_text_length", "clip_length",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.hidden_size % 2 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be even and a multiple of num_attention_heads={self.num_attention_heads}, "
                f"got {self.hidden_size}"
            )
        if self.max_video_length is not None and self.max_video_length <= 0:
            raise ValueError(f"max_video_length must be positive or None, got {self.max_video_length}")
        if self.saliency_weight < 0:
            raise ValueError(f"saliency_weight must not be negative, got {self.saliency_weight}")
        if self.video_feature_dims is not None and sum(self.video_feature_dims) != self.video_dim:
            raise ValueError(
                f"video_feature_dims {self.video_feature_dims} do not add up to video_dim={self.video_dim}"
            )
