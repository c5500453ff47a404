"""What the page says, in its languages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Texts:
    """The words of one language."""

    models: str
    compare: str
    new: str
    settings: str
    system: str
    system_hint: str
    thinks: str
    default: str
    on: str
    off: str
    temperature: str
    top_p: str
    top_k: str
    max_tokens: str
    repetition_penalty: str
    seed: str
    stop: str
    stop_hint: str
    tools: str
    tools_hint: str
    blank: str
    ask: str
    ask_media: str
    result: str
    copy: str
    download: str
    nothing: str
    welcome: str
    welcome_media: str
    thinking: str
    calls: str
    failed: str
    stopped: str
    empty: str
    tokens: str
    rate: str
    first: str
    cut: str
    kept: str
    corrected: str
    changed: str
    busy: str
    comma: str


ENGLISH = Texts(
    models="Model",
    compare="Choose several models above to ask all of them, side by side.",
    new="New chat",
    settings="Settings",
    system="System prompt",
    system_hint="The server's own, where this is empty",
    thinks="Thinking",
    default="as the model does",
    on="on",
    off="off",
    temperature="Temperature",
    top_p="Top p",
    top_k="Top k",
    max_tokens="Most tokens",
    repetition_penalty="Repetition penalty",
    seed="Seed",
    stop="Stop texts",
    stop_hint="One a line",
    tools="Tools",
    tools_hint="A JSON list of functions, as in OpenAI's protocol",
    blank="the server's",
    ask="Say something",
    ask_media="Say something, or drop a file here: {kinds}",
    result="What did {name} answer?",
    copy="Copy as JSONL",
    download="Download JSONL",
    nothing="There is no answer yet",
    welcome="Ask **{title}** anything.",
    welcome_media="Ask **{title}** anything. It takes {kinds} too.",
    thinking="Thinking",
    calls="Calls",
    failed="The server says",
    stopped="stopped",
    empty="an empty answer",
    tokens="{prompt} + {answer} tokens",
    rate="{rate:.1f} tokens/s",
    first="first after {seconds:.2f} s",
    cut="cut at the most tokens",
    kept="Recorded",
    corrected="Recorded: your text against the answer",
    changed="The conversation goes on from your text",
    busy="An answer is being written; stop it first",
    comma=", ",
)

CHINESE = Texts(
    models="模型",
    compare="在上方选择多个模型，同一问题并排对比。",
    new="新对话",
    settings="设置",
    system="系统提示",
    system_hint="留空则使用服务端默认值",
    thinks="思考",
    default="模型默认",
    on="开启",
    off="关闭",
    temperature="温度",
    top_p="Top p",
    top_k="Top k",
    max_tokens="最大 token 数",
    repetition_penalty="重复惩罚",
    seed="随机种子",
    stop="停止词",
    stop_hint="每行一个",
    tools="工具",
    tools_hint="OpenAI 格式的函数 JSON 列表",
    blank="服务端默认",
    ask="输入消息",
    ask_media="输入消息，或将文件拖到此处：{kinds}",
    result="{name} 的返回结果是什么？",
    copy="复制为 JSONL",
    download="下载 JSONL",
    nothing="还没有回答",
    welcome="向 **{title}** 提问吧。",
    welcome_media="向 **{title}** 提问吧，也可以发送{kinds}。",
    thinking="思考过程",
    calls="调用",
    failed="服务端返回",
    stopped="已停止",
    empty="空回答",
    tokens="{prompt} + {answer} tokens",
    rate="{rate:.1f} tokens/s",
    first="首字 {seconds:.2f} 秒",
    cut="达到最大 token 数",
    kept="已记录",
    corrected="已记录修改后的回答",
    changed="对话将从修改后的内容继续",
    busy="正在生成回答，请先停止",
    comma="、",
)

LANGUAGES = {"en": ENGLISH, "zh": CHINESE}

KINDS = {
    "en": {"image": "images", "video": "videos", "audio": "sounds"},
    "zh": {"image": "图片", "video": "视频", "audio": "音频"},
}
"""What media are called."""
