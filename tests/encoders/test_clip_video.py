import av
import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from shine_hf.encoders import is_video_encoder_spec, video_encoder
from shine_hf.encoders.video_reader import read_samples

from .videos import gray, write_video

SIZE = 32


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """Save a randomly initialized CLIP with its image processor."""
    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=small | {"vocab_size": 60},
        vision_config=small | {"image_size": SIZE, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}).save_pretrained(
        folder
    )
    return folder


def test_clip_feature_is_the_mean_of_its_image_features(tiny_clip):
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 255, (3, 2, SIZE, SIZE, 3), dtype=np.uint8)
    encoder = video_encoder(f"clip:{tiny_clip},frames=2")
    features = encoder.encode_clips(clips)
    assert features.shape == (3, encoder.dim) == (3, 12) and features.dtype == np.float32
    model, processor = CLIPModel.from_pretrained(tiny_clip).eval(), CLIPImageProcessorPil.from_pretrained(tiny_clip)
    with torch.no_grad():
        images = [
            model.get_image_features(**processor(frame, return_tensors="pt")).pooler_output[0] for frame in clips[1]
        ]
    np.testing.assert_allclose(features[1], torch.stack(images).mean(0), atol=1e-5)


def test_frames_are_scaled_like_the_processor_does(tiny_clip):
    smooth = np.linspace(0, 255, 60 * 96 * 3).reshape(60, 96, 3).astype(np.uint8)
    encoder = video_encoder(f"clip:{tiny_clip}")
    found = encoder.settings.normalize(smooth[None, None], "cpu")[0, 0]
    expected = CLIPImageProcessorPil.from_pretrained(tiny_clip)(smooth, return_tensors="pt")["pixel_values"][0]
    # FFmpeg and PIL round differently: two of 255 levels.
    assert (found - expected).abs().max() < 0.035


def frames_of_run_on_video(path, framerate, size=SIZE):
    """Read frames as `run_on_video` of Moment-DETR and QD-DETR does, with the same FFmpeg filters."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        height, width = (
            (int(stream.height * size / stream.width), size)
            if stream.height >= stream.width
            else (size, int(stream.width * size / stream.height))
        )
        x, y = int((width - size) / 2.0), int((height - size) / 2.0)
        graph = av.filter.Graph()
        chain = [
            graph.add_buffer(template=stream),
            graph.add("fps", fps=str(framerate)),
            graph.add("scale", f"{width}:{height}"),
            graph.add("crop", f"{size}:{size}:{x}:{y}"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*chain).configure()
        frames = []
        for frame in [*container.decode(stream), None]:
            graph.push(frame)
            while True:
                try:
                    frames.append(graph.pull().to_ndarray())
                except (av.error.BlockingIOError, av.error.EOFError):
                    break
    return np.stack(frames)


@pytest.mark.parametrize("fps", [25, 30, 7])
@pytest.mark.parametrize("seconds", [8.0, 7.0, 8.9, 9.2])
def test_frames_equal_those_of_run_on_video(tiny_clip, tmp_path, fps, seconds):
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (48, 80, 3), dtype=np.uint8)
    frames = [np.roll(scene, 3 * index, axis=1) for index in range(round(fps * seconds))]
    path = write_video(tmp_path / "a.mkv", frames, fps=fps)
    expected = frames_of_run_on_video(path, "1/2")
    sampling = video_encoder(f"clip:{tiny_clip}").sampling
    found = np.stack([clip[0] for (clip,) in read_samples(path, 2.0, [sampling])])
    assert found.shape == expected.shape
    # The filter converts colors before cropping, this library after it: they differ by a level or two.
    assert np.abs(found.astype(int) - expected).mean() < 1.5


def test_pixels_are_normalized_like_run_on_video_does(tiny_clip):
    clips = np.random.default_rng(0).integers(0, 255, (1, 1, SIZE, SIZE, 3), dtype=np.uint8)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    expected = (clips / 255.0 - mean) / (np.asarray(std) + 1e-8)
    found = video_encoder(f"clip:{tiny_clip}").settings.normalize(clips, "cpu")
    np.testing.assert_allclose(found[0, 0].permute(1, 2, 0), expected[0, 0], atol=1e-5)


def test_batching_does_not_change_the_features(tiny_clip, tmp_path):
    path = write_video(tmp_path / "a.mp4", [gray(12 * i) for i in range(20)], fps=4)
    encoder = video_encoder(f"clip:{tiny_clip},frames=2")
    all_at_once = encoder.encode_video(path, 1.0)
    encoder.batch_clips = 2
    assert all_at_once.shape == (5, 12)
    np.testing.assert_allclose(encoder.encode_video(path, 1.0, progress=True), all_at_once, atol=1e-5)
    assert not np.allclose(all_at_once[0], all_at_once[-1])


def test_spec_rebuilds_the_encoder(tiny_clip):
    assert video_encoder(f"clip:{tiny_clip}").spec == f"clip:{tiny_clip},frames=1"
    encoder = video_encoder(f"clip:{tiny_clip},frames=3")
    assert encoder.frames_per_clip == 3 and video_encoder(encoder.spec).spec == encoder.spec
    joint = video_encoder(f"clip:{tiny_clip}+pixels:size=2")
    assert joint.dims == [12, 16] and video_encoder(joint.spec).spec == joint.spec


def test_invalid_encoder_specs_are_rejected():
    assert is_video_encoder_spec("clip:x") and is_video_encoder_spec("pixels:") and not is_video_encoder_spec("i3d:x")
    assert is_video_encoder_spec("clip:a+b+auto:c,frames=2") and not is_video_encoder_spec("i3d:x+clip:y")
    for spec, message in (
        ("i3d:folder", "unknown video encoder 'i3d:folder'"),
        ("clip+auto", "unknown video encoder"),
        ("pixels:width=3", "no option 'width=3'; its options are size, frames"),
        ("pixels:size=0", "must be positive"),
        ("auto:", "needs the name of a model"),
        ("slowfast:", "needs a file of weights"),
        ("clip:x,frames=two", "'two' is not a valid int"),
    ):
        with pytest.raises(ValueError, match=message):
            video_encoder(spec)
