"""The page: what is on it, and which act each part starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from swift.app.acts import Acts
from swift.app.events import MOST_LANES, Events, LaneEvents
from swift.app.look import inert
from swift.app.talk import NUMBERS, Lane
from swift.app.texts import KINDS, LANGUAGES

STYLE = Path(__file__).with_name("page.css")
_SANS = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "monospace")
_DARK = "() => { document.body.classList.toggle('dark') }"
_COPY = """async (text) => {
  if (!text) return;
  if (navigator.clipboard) return await navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");  // http from another machine has no clipboard
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}"""
_SAVE = """(text) => {
  if (!text) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/jsonl"}));
  link.download = "conversation.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""


@dataclass(frozen=True)
class Look:
    """What a page is like before anybody does anything."""

    title: str
    lang: str
    models: Sequence[str]
    system: str = ""
    stop: Sequence[str] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)  # setting -> value; absent: blank
    streams: bool = True


def theme() -> gr.themes.Base:
    """Quiet colours, and only fonts that a machine has: the page fetches nothing from elsewhere."""
    return gr.themes.Default(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="zinc",
        radius_size="lg",
        font=_SANS,
        font_mono=_MONO,
    )


class Page:
    """The components of a page, and what their events do."""

    def __init__(self, acts: Acts, look: Look) -> None:
        self._acts, self._look, self._texts = acts, look, LANGUAGES[look.lang]
        kinds = self._texts.comma.join(KINDS[look.lang][kind] for kind in acts.takes)
        self._kinds = kinds
        self._hint = self._texts.ask_media.format(kinds=kinds) if kinds else self._texts.ask
        self._events = Events(acts, self._hint, streams=look.streams)
        with gr.Blocks(title=look.title, analytics_enabled=False, fill_height=True) as blocks:
            self._add_head()
            self._add_lanes()
            self._add_box()
            with gr.Sidebar(position="right", open=False, elem_id="settings", width=340):
                self._add_settings()
            self._connect()
            blocks.unload(self._events.leave)
        self.blocks = blocks.queue(default_concurrency_limit=None)

    def _add_head(self) -> None:
        texts, names = self._texts, list(self._look.models)
        with gr.Row(elem_id="head"):
            gr.Markdown(inert(self._look.title), elem_id="title")
            self._models = gr.Dropdown(
                names, value=names[:1], multiselect=True, max_choices=MOST_LANES,
                label=texts.models, show_label=False, container=False,
                visible=len(names) > 1, elem_id="models",
            )  # fmt: skip
            self._new = gr.Button(texts.new, size="sm", elem_id="new", scale=0, min_width=96)
            self._dark = gr.Button("\u25d0", size="sm", elem_id="dark", scale=0, min_width=40)

    def _add_lanes(self) -> None:
        acts, texts = self._acts, self._texts
        kinds = self._kinds
        welcome = texts.welcome_media if kinds else texts.welcome
        welcome = welcome.format(title=inert(self._look.title), kinds=kinds)
        if len(self._look.models) > 1:
            welcome += f"\n\n{texts.compare}"
        self._columns, self._names, self._boxes, self._told = [], [], [], []
        self._lanes = gr.State(tuple(Lane(name) for name in self._look.models[:1]))
        with gr.Row(elem_id="lanes", equal_height=True):
            for number in range(MOST_LANES):
                with gr.Column(visible=number == 0, min_width=280, elem_classes="lane") as column:
                    self._names.append(gr.Markdown(visible=False, elem_classes="name"))
                    self._boxes.append(
                        gr.Chatbot(
                            elem_id=f"lane-{number}", show_label=False, container=False,
                            buttons=["copy"], editable="all", layout="bubble", height="100%",
                            feedback_options=("Like", "Dislike") if acts.records else None,
                            placeholder=welcome,
                            allow_tags=False, group_consecutive_messages=False,
                        )
                    )  # fmt: skip
                    self._told.append(
                        gr.Markdown("", elem_classes="told", elem_id=f"told-{number}")
                    )
                self._columns.append(column)

    def _add_box(self) -> None:
        acts = self._acts
        self._box = gr.MultimodalTextbox(
            show_label=False, elem_id="box", autofocus=True, max_lines=12,
            sources=["upload"] if acts.takes else [], file_count="multiple",
            file_types=list(acts.takes) or None, max_plain_text_length=1_000_000,
            placeholder=self._hint,
        )  # fmt: skip

    def _add_settings(self) -> None:
        texts, look = self._texts, self._look
        gr.Markdown(f"### {texts.settings}")
        system = gr.Textbox(
            look.system, label=texts.system, placeholder=texts.system_hint, lines=3,
            elem_id="system",
        )  # fmt: skip
        with gr.Row(elem_id="numbers"):
            begin = {name: look.numbers.get(setting) for name, (setting, _) in NUMBERS.items()}
            numbers = [
                gr.Textbox(
                    "" if value is None else str(value),
                    label=getattr(texts, name), placeholder=texts.blank, min_width=120,
                    elem_id=name,
                )
                for name, value in begin.items()
            ]  # fmt: skip
        choices = [(texts.default, ""), (texts.on, "on"), (texts.off, "off")]
        thinks = gr.Radio(choices, value="", label=texts.thinks, elem_id="thinks")
        stop = gr.Textbox(
            "\n".join(look.stop), label=texts.stop, placeholder=texts.stop_hint, lines=1,
            max_lines=6, elem_id="stop",
        )  # fmt: skip
        tools = gr.Textbox(
            label=texts.tools, placeholder=texts.tools_hint, lines=2, max_lines=12, elem_id="tools"
        )
        self._settings = [system, thinks, stop, tools, *numbers]
        with gr.Row():
            self._copy = gr.Button(texts.copy, size="sm", elem_id="copy")
            self._save = gr.Button(texts.download, size="sm", elem_id="save")
        self._rows = gr.Textbox(visible=False)

    def _connect(self) -> None:
        events = self._events
        hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        outputs = self._view_parts
        growing = [self._box, *outputs]
        inputs = [self._lanes, *self._settings]
        self._box.submit(events.send, [self._box, self._models, *inputs], growing, **hidden)
        self._box.stop(events.stop, **hidden)
        self._models.change(events.choose, [self._models, self._lanes], outputs, **hidden)
        self._new.click(events.anew, [self._lanes], growing, **hidden)
        self._dark.click(None, js=_DARK)
        for button, script in ((self._copy, _COPY), (self._save, _SAVE)):
            clicked = button.click(events.row, inputs, [self._rows], **hidden)
            clicked.then(None, [self._rows], js=script)
        for number, box in enumerate(self._boxes):
            lane = LaneEvents(events, number)
            box.retry(lane.again, inputs, growing, **hidden)
            box.edit(lane.edit, inputs, growing, **hidden)
            if self._acts.records:
                box.like(lane.judge, [self._lanes], growing, **hidden)

    @property
    def _view_parts(self) -> list[Any]:
        """The components that :meth:`Events.view` gives values for."""
        return [self._lanes, *self._columns, *self._names, *self._boxes, *self._told]
