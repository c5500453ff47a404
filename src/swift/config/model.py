"""Which model, and how it is loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from swift.config.section import Options, Section, Strings, Word


class LoadSection(Section):
    """How a model is loaded."""

    revision: str | None = None
    """Branch, tag or commit on the hub."""

    hub: Literal["auto", "huggingface", "modelscope"] = "auto"
    """Where a hub name is looked up. auto: Hugging Face."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the computation. auto: bfloat16 on a GPU that has it, else float32. Trained
    weights are kept in float32 in any case. float16 is for inference only."""

    attention: Literal["auto", "packed", "sdpa", "eager", "flash"] = "auto"
    """Attention kernel. auto: the fastest that this model and device have and that keeps the
    borders between packed samples; checked on the loaded model."""

    chat_template: str | None = None
    """A Jinja file to use instead of the checkpoint's own chat template, or one that comes along:
    chatml, zephyr, vicuna, alpaca, plain (contents only, for models without a template)."""

    thinking: bool | None = None
    """Whether the model thinks before it answers, where its template has such a switch."""

    template_kwargs: Options = {}
    """What else the chat template reads, as JSON; a row's chat_template_kwargs come first."""

    response_prefix: str | None = None
    """How every answer begins, in training and in inference, as in "<think>": it is read, never
    learned, and a part of the answer that is shown."""

    allow_remote_media: bool = False
    """Fetch media that rows name by an address (http, https)."""

    max_pixels: int | None = Field(None, ge=1)
    """Images of more pixels are made smaller, as wide to their height as before: by the
    checkpoint's own processor where it has such a setting, else before it sees them."""

    min_pixels: int | None = Field(None, ge=1)
    """Images of fewer pixels are made larger, where the checkpoint's processor has such a
    setting."""

    fps: float = Field(2.0, gt=0)
    """Frames of a video taken per second."""

    max_frames: int = Field(768, ge=1)
    """Most frames of a video; of a longer one they lie further apart."""

    min_frames: int = Field(1, ge=1)
    """Fewest frames of a video; of a shorter one they lie closer together."""

    sampling_rate: int | None = Field(None, ge=1)
    """Samples of a sound per second, in Hz. Default: what the checkpoint's processor takes."""

    bbox_format: Literal["auto", "tokens", "list", "pairs"] = "auto"
    """How boxes in images are written: tokens <|box_start|>(1,2),(3,4)<|box_end|>, list
    [1, 2, 3, 4], pairs [(1,2),(3,4)]. auto: tokens where the tokenizer has them, else list."""

    norm_bbox: Literal["norm1000", "none"] = "norm1000"
    """Unit of those boxes: thousandths of width and height, or none: pixels of the image as the
    checkpoint's processor resizes it."""

    media_cache: bool = False
    """Keep what the processor makes of images on disk, so that an image is decoded and resized
    once, however many rows, epochs, runs and processes use it."""

    media_cache_gib: float = Field(10.0, gt=0)
    """GiB that media_cache takes at most; what was not used for longest goes first."""

    media_memory_mib: int = Field(256, ge=0)
    """MiB of prepared images that every process that prepares some keeps in memory."""

    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Only for sources you trust."""

    adapters: Strings = []
    """The folder of an adapter (checkpoint-N of a LoRA run) that is put onto the model: trained on
    by sft and pt, used by infer and export."""

    merge: bool = False
    """Merge those adapters into the weights once loaded: faster, equal within rounding."""


class ModelSection(LoadSection):
    """Which model, and how it is loaded."""

    path: Word
    """A hub name (Qwen/Qwen3-0.6B), a folder, a .gguf file, or package:<name> of an installed
    package that carries a model."""


class UsedModelSection(LoadSection):
    """Which model, and how it is loaded."""

    path: Word | None = None
    """A hub name (Qwen/Qwen3-0.6B), a folder, a .gguf file, or package:<name> of an installed
    package that carries a model. Default: what the adapter was trained on."""
