"""Sounds and videos in conversations: the tokens are those of the checkpoint's own processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

import tiny
from swift.chat.load import load_renderer
from swift.chat.media.settings import MediaSettings
from swift.chat.message import Conversation, Media, Message
from swift.chat.render import Renderer
from swift.errors import ConfigError, DataError, RenderError

soundfile = pytest.importorskip("soundfile", reason="pip install 'swift-llm[media]'")


def talk(*contents: Any) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], content) for i, content in enumerate(contents)))


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_audio_checkpoint(tmp_path_factory.mktemp("ears"))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Media]:
    place, random = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    made = []
    for number, (rate, seconds) in enumerate([(16_000, 1.0), (8_000, 0.5), (44_100, 1.7)]):
        path = place / f"{number}.wav"
        samples = random.normal(0, 0.1, int(rate * seconds)).astype(np.float32)
        soundfile.write(path, samples, rate, subtype="FLOAT")
        made.append(Media("audio", str(path)))
    return made


def test_sounds_are_written_as_the_processor_does(ears: Path, sounds: list[Media]) -> None:
    renderer = load_renderer(ears)
    [sample] = renderer.render(talk((sounds[0], "What?"), "A dog.", (sounds[0], "And?"), "It too."))
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nWhat?<|im_end|>\n<|im_start|>assistant\n"
        "A dog.<|im_end|>\n<|im_start|>user\nAudio 2: <|audio_bos|><|AUDIO|><|audio_eos|>\nAnd?"
        "<|im_end|>\n<|im_start|>assistant\nIt too.<|im_end|>\n"
    )
    samples, rate = soundfile.read(str(sounds[0].source), dtype="float32")
    made = AutoProcessor.from_pretrained(ears)(
        text=[text], audio=[samples, samples], sampling_rate=rate, add_special_tokens=False
    )
    assert sample.tokens == list(made["input_ids"][0])
    learned = [t for t, w in zip(sample.tokens, sample.weights, strict=True) if w > 0]
    said = renderer.tokenizer.decode(learned, keep_special=True)
    assert said == "A dog.<|im_end|>It too.<|im_end|>"
    features = renderer.marks.features([(sample.tokens, sample.media)])
    for name in ("input_features", "feature_attention_mask"):
        assert np.array_equal(features[name], np.asarray(made[name]))


def test_sounds_of_any_rate_take_the_processors(ears: Path, sounds: list[Media]) -> None:
    marks = load_renderer(ears).marks
    assert [len(marks.ids(sound)) for sound in sounds] == [25, 12, 42]  # 25 tokens a second
    together = marks.prepare(sounds)
    assert together["input_features"].shape == (3, 32, 200)


def test_a_rate_that_the_processor_does_not_take(ears: Path, sounds: list[Media]) -> None:
    renderer = load_renderer(ears, media=MediaSettings(sampling_rate=8000))
    with pytest.raises(ConfigError, match="--sampling_rate 8000: this checkpoint hears 16000"):
        renderer.render(talk((sounds[0], "What?"), "A dog."))


def test_a_sound_that_has_changed_is_named(ears: Path, sounds: list[Media]) -> None:
    renderer = load_renderer(ears)
    [sample] = renderer.render(talk((sounds[0], "What?"), "A dog."))
    with pytest.raises(DataError, match="take 12 places, its tokens hold 25: a sound has changed"):
        renderer.marks.features([(sample.tokens, (sounds[1],))])


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_checkpoint_that_only_hears(ears: Path, kind: Any) -> None:
    with pytest.raises(RenderError, match="neither the template nor the processor"):
        load_renderer(ears).render(talk((Media(kind, "a.png"), "What?"), "A dog."))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Media:
    place, random = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)
    names = []
    for number in range(5):
        path = place / f"{number}.png"
        Image.fromarray(random.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
        names.append(str(path))
    return Media("video", tuple(names))


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_vision_checkpoint(tmp_path_factory.mktemp("eyes"))


def _seen(folder: Path, text: str, names: tuple[str, ...]) -> Any:
    images = [Image.open(name) for name in names]
    processor = AutoProcessor.from_pretrained(folder)
    return processor(text=[text], images=images, add_special_tokens=False, return_tensors="np")


def test_a_video_is_its_frames_to_a_processor_of_images(eyes: Path, frames: Media) -> None:
    renderer = load_renderer(eyes)
    still = Media("image", frames.source[0])
    [sample] = renderer.render(talk((frames, "Where to?"), "Left.", (still, "Here?"), "Yes."))
    text = (
        f"<|im_start|>user\n{'<image>' * 5}Where to?<|im_end|>\n<|im_start|>assistant\nLeft."
        "<|im_end|>\n<|im_start|>user\n<image>Here?<|im_end|>\n<|im_start|>assistant\nYes."
        "<|im_end|>\n"
    )
    assert isinstance(frames.source, tuple)
    made = _seen(eyes, text, (*frames.source, frames.source[0]))
    assert sample.tokens == made["input_ids"][0].tolist()
    features = renderer.marks.features([(sample.tokens, sample.media)])
    assert np.array_equal(features["pixel_values"], made["pixel_values"])


def test_frames_are_thinned_out(eyes: Path, frames: Media) -> None:
    marks = load_renderer(eyes, media=MediaSettings(max_frames=2)).marks
    assert len(marks.ids(frames)) == 2 * 17
    assert marks.prepare([frames, frames])["pixel_values"].shape == (4, 3, 32, 32)


def test_a_film_is_sampled(eyes: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="pip install 'swift-llm[media]'")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            picture = np.full((48, 64, 3), number * 8, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        file.mux(stream.encode())
    for fps, count in ((1.0, 3), (2.0, 6)):
        marks = load_renderer(eyes, media=MediaSettings(fps=fps)).marks
        assert len(marks.ids(Media("video", str(path)))) == 17 * count


def test_large_images_are_made_smaller_as_wide_to_their_height(eyes: Path, tmp_path: Path) -> None:
    Image.new("RGB", (400, 200)).save(tmp_path / "a.png")
    processor = load_renderer(eyes, media=MediaSettings(max_pixels=20_000)).marks.processor
    [image] = processor.read(Media("image", str(tmp_path / "a.png")))
    assert image.size == (200, 100)


def test_images_are_not_made_larger_by_us(eyes: Path, frames: Media) -> None:
    renderer = load_renderer(eyes, media=MediaSettings(min_pixels=20_000))
    with pytest.raises(ConfigError, match="--min_pixels"):
        renderer.render(talk((Media("image", frames.source[0]), "Hi"), "Yes."))


def test_bounds_that_cannot_be_meant() -> None:
    with pytest.raises(ConfigError, match="max_pixels"):
        MediaSettings(max_pixels=0)


class Watching:
    """A processor of videos, as those are that need torchvision: 3 tokens a frame."""

    image_token, video_token, video_processor = "<image>", "<|video|>", object()

    def __init__(self, folder: Path) -> None:
        self._images = AutoProcessor.from_pretrained(folder)
        self.image_processor = self._images.image_processor

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "video_processor", "tokenizer"]

    def __call__(
        self, text: list[str], videos: Any = (), video_metadata: Any = (), images: Any = None,
        do_sample_frames: bool = False, **options: Any,
    ) -> Any:  # fmt: skip
        assert not do_sample_frames and len(videos) == len(video_metadata)
        whole = text[0]
        for frames, about in zip(videos, video_metadata, strict=True):
            assert about["frames_indices"] == list(range(len(frames)))
            whole = whole.replace(self.video_token, "<v>" * 3 * len(frames), 1)
        if self.video_token in whole or (not videos and "<|video|>" in text[0]):
            raise ValueError("a video is missing")
        whole = whole.replace("<v>", self.video_token)
        found = dict(self._images(text=[whole], images=images, **options))
        if videos:
            found["pixel_values_videos"] = np.concatenate([v.mean(axis=(1, 2)) for v in videos])
            found["seconds"] = np.array([about["duration"] for about in video_metadata])
        return found


@pytest.fixture
def watching(tmp_path: Path) -> Renderer:
    folder = tiny.save_vision_checkpoint(tmp_path / "eyes", marks=("<|video|>",))
    renderer = load_renderer(folder)
    renderer.marks.processor.__dict__["_processor"] = Watching(folder)
    return renderer


def test_a_processor_of_videos_gets_them_as_they_are(watching: Renderer, frames: Media) -> None:
    still = Media("image", frames.source[0])
    [sample] = watching.render(talk((frames, "Where to?", still), "Left."))
    text = watching.tokenizer.decode(sample.tokens, keep_special=True)
    assert text.startswith(
        f"<|im_start|>user\n{'<|video|>' * 15}Where to?{'<image>' * 17}<|im_end|>"
    )
    features = watching.marks.features([(sample.tokens, sample.media)] * 2)
    assert features["pixel_values"].shape == (2, 3, 32, 32)
    assert features["pixel_values_videos"].shape == (10, 3)
    assert features["seconds"].tolist() == [2.5, 2.5]


def test_videos_that_need_a_package(watching: Renderer, frames: Media) -> None:
    watching.marks.processor.__dict__["_processor"].video_processor = None
    with pytest.raises(RenderError, match="torchvision"):
        watching.render(talk((frames, "Where to?"), "Left."))
