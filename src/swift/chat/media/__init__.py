"""Images, videos and sounds: from where they lie to pixels and samples, without torch."""

from swift.chat.media.audio import Audio, open_audio
from swift.chat.media.image import open_image, size_of
from swift.chat.media.settings import MediaSettings
from swift.chat.media.source import read_bytes
from swift.chat.media.video import Video, open_video

__all__ = [
    "Audio",
    "MediaSettings",
    "Video",
    "open_audio",
    "open_image",
    "open_video",
    "read_bytes",
    "size_of",
]
