import itertools
import json

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from shine_hf.data.annotations import read_annotations
from shine_hf.encoders.video_reader import read_clips, video_duration
from shine_hf.schema import FEATURES, check_rows
from shine_hf.shapes_cg.events import PAIR_SLOTS, TEMPLATES, WORDS, Event, ShapesVideo, caption
from shine_hf.shapes_cg.rendering import SHAPES, contact_sheet, render_video
from shine_hf.shapes_cg.world import FILE_COLUMNS, SPLITS, ShapesCG

SMALL = ShapesCG(train_videos=250, test_trivial_videos=50, novel_composition_videos=50)


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict]]:
    return {split: list(SMALL.rows(split)) for split in SPLITS}


def words_of(query: str) -> tuple[str, ...]:
    """Return the five words of a query, parsed from the sentence."""
    spoken = query.rstrip(".").split()
    return tuple(next(word for word in words if word in spoken) for words in WORDS.values())


def changed(query: str, other: str) -> list[int]:
    return [slot for slot, (a, b) in enumerate(zip(words_of(query), words_of(other))) if a != b]


def test_rows_match_the_schema(rows):
    for split, found in rows.items():
        check_rows(found, source=split)
        assert all(set(row) == set(FEATURES) for row in found)
    assert len(rows["train"]) == SMALL.train_videos * SMALL.events
    vids = [{row["vid"] for row in found} for found in rows.values()]
    assert not (vids[0] & vids[1] or vids[0] & vids[2] or vids[1] & vids[2])


def test_seed_determines_everything(rows):
    assert list(ShapesCG(train_videos=3).rows("train")) == rows["train"][: 3 * SMALL.events]
    other = ShapesCG(seed=1, train_videos=3)
    assert list(other.rows("train")) != rows["train"][: 3 * SMALL.events] and other.novel_pairs != SMALL.novel_pairs


def test_training_has_every_word_but_no_novel_pair(rows):
    novel = {frozenset(pair[1:]) for pair in SMALL.novel_pairs}

    def pairs(query):
        by_slot = dict(zip(WORDS, words_of(query)))
        return {frozenset((by_slot[first], by_slot[second])) for first, second in PAIR_SLOTS.values()}

    for split in ("train", "test_trivial"):
        for row in rows[split]:
            assert not any(pairs(query) & novel for query in (row["query"], *row["negative_queries"])), row["qid"]
            assert not row["composition_types"]
        # The videos contain only what the queries describe.
        for video in SMALL.videos(split):
            assert not any(SMALL.novel_pairs_in(event.words) for event in video.events)
    for row in rows["novel_composition"]:
        named = {frozenset(words) for words in row["composition_words"]}
        assert named == pairs(row["query"]) & novel and named, row["qid"]
        assert len(row["composition_types"]) == len(row["composition_words"])
    seen = {word for row in rows["train"] for word in words_of(row["query"])}
    assert seen == {word for words in WORDS.values() for word in words}
    assert {kind for row in rows["novel_composition"] for kind in row["composition_types"]} == set(PAIR_SLOTS)


def test_negatives_change_more_words_per_level_and_match_no_event(rows):
    videos = {video.vid: video for split in SPLITS for video in SMALL.videos(split)}
    for row in itertools.chain(*rows.values()):
        slots = [changed(row["query"], negative) for negative in row["negative_queries"]]
        assert [len(level) for level in slots] == [1, 2, 4] and set(slots[0]) < set(slots[1]) < set(slots[2])
        (start, end), video = row["relevant_windows"][0], videos[row["vid"]]
        shown = [event.words for event in video.events if event.start < end and event.end > start]
        assert shown == [words_of(row["query"])]
        assert not {words_of(negative) for negative in row["negative_queries"]} & set(shown)
        assert [query.count("<mask>") for query in row["masked_queries"]] == [1, 2, 4]
        # Each mask is where the negative has another word.
        for masked, negative in zip(row["masked_queries"], row["negative_queries"]):
            for word, other, mask in zip(row["query"].split(), negative.split(), masked.split()):
                assert mask.strip(".") == (word.strip(".") if word == other else "<mask>")
    # Any kind of word can change.
    assert {changed(row["query"], row["negative_queries"][0])[0] for row in rows["train"]} == set(range(5))


def test_every_video_has_distractors_differing_in_one_word():
    for video in SMALL.videos("train"):
        assert len({event.words for event in video.events}) == SMALL.events
        distances = [
            sum(a != b for a, b in zip(first.words, second.words))
            for first, second in itertools.combinations(video.events, 2)
        ]
        assert distances.count(1) >= 2
        times = [time for event in video.events for time in (event.start, event.end)]
        assert times == sorted(times) and times[0] > 0 and times[-1] < video.duration
        assert min(event.end - event.start for event in video.events) > 2


def frames_of(words, size=64, fps=8, side=1):
    video = ShapesVideo("v", 8.0, (0.5, 0.5), 0, (Event(words, 2.0, 6.0, 0.0, side),))
    return render_video(video, size, fps).astype(int)


def shape_mask(frames, color_channel=0):
    """Return the mask of a red shape."""
    return (frames[..., 0] > 150) & (frames[..., 1] < 100)


def test_shape_is_visible_only_during_its_event():
    mask = shape_mask(frames_of(("red", "square", "spins", "slowly", "above"))).any(axis=(1, 2))
    assert mask.tolist() == [16 <= frame < 48 for frame in range(64)]


def test_shape_that_is_dark_during_its_entire_event_is_not_drawn():
    dark = Event(("red", "square", "blinks", "slowly", "above"), 2.0, 3.0, phase=0.5)
    videos = [ShapesVideo("v", 8.0, (0.5, 0.5), 0, events) for events in ((dark,), ())]
    assert np.array_equal(*(render_video(video, 64, 8) for video in videos))


@pytest.mark.parametrize(
    ("preposition", "rows", "columns"),
    [("above", (0, 30), (20, 44)), ("below", (34, 64), (20, 44)), ("beside", (20, 44), (34, 64))],
)
def test_preposition_sets_the_position(preposition, rows, columns):
    mask = shape_mask(frames_of(("red", "square", "spins", "slowly", preposition))).any(axis=0)
    y, x = np.nonzero(mask)
    assert rows[0] <= y.min() and y.max() < rows[1] and columns[0] <= x.min() and x.max() < columns[1]


def test_shape_behind_the_box_is_covered():
    mask = shape_mask(frames_of(("red", "square", "blinks", "slowly", "behind"))).any(axis=0)
    assert not mask[29:35, 29:35].any() and mask.sum() > 50


def test_verb_and_adverb_set_the_motion():
    def track(verb, adverb="slowly"):
        mask = shape_mask(frames_of(("red", "star", verb, adverb, "above")))[16:48]
        area = mask.sum(axis=(1, 2))
        y, x = (
            np.array([np.nonzero(frame)[axis].mean() if frame.any() else np.nan for frame in mask]) for axis in (0, 1)
        )
        return area, y, x

    area, y, x = track("slides")
    assert np.ptp(x) > 8 and np.ptp(y) < 2
    area, y, x = track("bounces")
    assert np.ptp(y) > 8 and np.ptp(x) < 2
    area, y, x = track("grows")
    assert area.max() > 3 * area.min() and np.ptp(x) < 2
    area, y, x = track("blinks")
    assert (area == 0).sum() == 16 == (area == area.max()).sum()
    area, y, x = track("spins")
    assert np.ptp(x) < 2 and np.ptp(y) < 2 and area.min() > 0.7 * area.max()
    # "quickly" is four times as fast.
    blinks = {adverb: np.abs(np.diff(track("blinks", adverb)[0] > 0)).sum() for adverb in ("slowly", "quickly")}
    assert blinks == {"slowly": 1, "quickly": 7}


@pytest.mark.parametrize("settings", [{"duration": 21.0, "events": 3, "fps": 4}, {"duration": 28.0}])
def test_every_event_is_visible(settings):
    """Include slow blinking in videos with the maximum number of events."""
    world = ShapesCG(train_videos=100, size=16, **settings)
    for video in world.videos("train"):
        frames = render_video(video, world.size, world.fps)
        for event in video.events:
            during = frames[round(event.start * world.fps) : round(event.end * world.fps)]
            # Only the box is in the first frame.
            assert (during != frames[0]).any(), (video.vid, event)


def test_shapes_look_different():
    v, u = (np.mgrid[:64, :64] - 32) / 150
    masks = [outline(u, v) < 0 for outline in SHAPES.values()]
    for one, other in itertools.combinations(masks, 2):
        assert (one & other).sum() / (one | other).sum() < 0.8
    assert all(0.1 < mask.mean() < 0.4 for mask in masks)


def test_captions_can_be_parsed_back():
    words = ("red", "star", "spins", "slowly", "above")
    assert caption(words) == "a red star spins slowly above the box."
    assert all(words_of(caption(words, template)) == words for template in TEMPLATES)


def test_written_files_load_and_can_be_extended(tmp_path):
    world = ShapesCG(train_videos=3, test_trivial_videos=1, novel_composition_videos=1, duration=21.0, events=3)
    folder = world.write(tmp_path / "world", workers=2)
    for split in SPLITS:
        found = read_annotations(folder / f"{split}.jsonl").select_columns(list(FILE_COLUMNS)).to_list()
        assert found == [{name: row[name] for name in FILE_COLUMNS} for row in world.rows(split)]
    # All splits together in any order: no column holds only empty lists, whose type would be unknown.
    for order in (SPLITS, SPLITS[::-1]):
        files = {split: str(folder / f"{split}.jsonl") for split in order}
        loaded = load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache" / order[0]))
        assert loaded["train"][0]["negative_queries"] == next(world.rows("train"))["negative_queries"]
    videos = sorted((folder / "videos").iterdir())
    assert [path.name for path in videos] == [
        "novel_composition_00000.mp4", "test_trivial_00000.mp4", "train_00000.mp4", "train_00001.mp4", "train_00002.mp4",
    ]  # fmt: skip
    assert video_duration(videos[0]) == pytest.approx(21.0)
    # Decoded frames equal the rendered ones.
    video = next(iter(world.videos("train")))
    drawn = render_video(video, world.size, world.fps)
    clips = np.concatenate(list(read_clips(folder / "videos" / f"{video.vid}.mp4", 1.0, world.fps)))
    assert np.abs(clips.astype(int) - drawn).mean() < 6
    # Existing files are kept and missing ones written; other settings need another folder.
    videos[2].unlink(), videos[3].write_bytes(b"kept")
    world.write(folder)
    assert video_duration(videos[2]) == pytest.approx(21.0) and videos[3].read_bytes() == b"kept"
    with pytest.raises(ValueError, match="other settings"):
        ShapesCG(train_videos=1, duration=21.0, events=3, seed=1).write(folder)
    assert json.loads((folder / "shapes_cg.json").read_text())["seed"] == 0


def test_contact_sheet_is_written(tmp_path):
    path = contact_sheet(list(ShapesCG(train_videos=1).videos("train")), tmp_path / "sheet.png", columns=4, tile=32)
    with Image.open(path) as sheet:
        assert sheet.width > 4 * 32 and sheet.height > SMALL.events * 32 and len(sheet.getcolors(100_000)) > 20


@pytest.mark.parametrize(
    "settings", [{"events": 2}, {"duration": 27.0}, {"size": 47}, {"size": 8}, {"fps": 3}, {"train_videos": -1}]
)
def test_impossible_settings_are_rejected(settings):
    with pytest.raises(ValueError, match=r"got|negative"):
        ShapesCG(**settings)


def test_unknown_splits_are_rejected():
    with pytest.raises(ValueError, match="novel_composition"):
        next(SMALL.rows("test"))
