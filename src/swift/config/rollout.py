"""How answers are drawn while a policy learns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from swift import registry
from swift.config.section import Options, Section, Strings

registry.register("environment", "gym", "swift.rl.environment:gym")
registry.register("environment", "async_gym", "swift.rl.async_gym:async_gym")
registry.register(
    "environment",
    "reasoning_gym",
    "swift.rl.reasoning:reasoning_gym",
    needs="reasoning_gym",
    extra="rl",
)

Place = Literal["live", "colocate", "server"]


def _many(value: Any) -> Any:
    """One port or several."""
    return value if isinstance(value, list | tuple) else [value]


Ports = Annotated[list[Annotated[int, Field(ge=1, le=65535)]], BeforeValidator(_many)]


class RolloutSection(Section):
    """How answers are drawn; the trainer computes with the same temperature and cuts."""

    backend: Literal["transformers", "vllm"] = "transformers"
    """The engine that answers in this process; servers have their own."""

    mode: Place | None = None
    """Where answers come from: the model that learns itself (live), an engine in the same process
    with a copy of the weights (colocate), or servers that swift rollout started (server). Default:
    live, with vllm colocate."""

    num_generations: int = Field(8, ge=1)
    """Answers to each prompt: a group. Default with a critic: 1."""

    max_completion_length: int = Field(512, ge=1)
    """Longest answer in tokens; with several turns, of each."""

    temperature: float = Field(1.0, gt=0)
    """Randomness of the choice of a token."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Choose among the most likely tokens that together have this probability."""

    top_k: int = Field(0, ge=0)
    """Choose among this many most likely tokens; 0: all."""

    min_p: float = Field(0.0, ge=0, lt=1)
    """Choose among tokens that are at least this part as likely as the most likely one."""

    eval_temperature: float = Field(0.0, ge=0)
    """The same for prompts that are held out (--val_dataset, --split_dataset_ratio); 0: the
    likeliest answers."""

    stop: Strings = []
    """Texts that end an answer."""

    batch_size: int | None = Field(None, ge=1)
    """Answers generated at once on one device. Default: all of its own."""

    environment: str | None = None
    """What reacts to answers: gym, async_gym, reasoning_gym, or one of a plug-in. Default: nothing
    does."""

    environment_settings: Options = {}
    """Settings of the environment, as JSON."""

    gym: bool = False
    """The environment is a game: there must be one, and what it gives is a reward beside those that
    are named, unless reward.environment says otherwise."""

    max_turns: int = Field(8, ge=1)
    """Most answers of one episode, where an environment reacts."""

    recorded: bool = False
    """Learn from the answers and rewards that rows bring (completions and rewards, or reward
    beside a conversation); no engine is asked."""

    log_completions: bool = False
    """Write every answer with its rewards and its advantage to completions.jsonl."""

    asynchronous: bool = False
    """Draw the next answers while those before are learned from, with older weights."""

    max_staleness: int = Field(1, ge=1)
    """asynchronous: most generations that weights may be behind those that learn."""

    max_model_len: int | None = Field(None, ge=1)
    """Most tokens of prompt and answer together. Default: what the engine can hold."""

    server_url: Strings = []
    """Addresses of servers, such as http://10.0.0.2:8000; several share the prompts."""

    server_host: Strings = []
    """Hosts of servers, in place of addresses."""

    server_port: Ports = [8000]
    """Port of every host, or one port for all of them."""

    server_key: str | None = Field(None, exclude=True)
    """Key that the servers ask for; it is kept in no file."""

    server_timeout_s: float = Field(240.0, gt=0)
    """Longest time that a server may be away before the run ends."""

    answer_timeout_s: float = Field(3600.0, gt=0)
    """Longest time that a server may take for the answers of one request."""

    sleep_level: int = Field(0, ge=0, le=2)
    """colocate with vllm: 1 or 2: the engine gives its memory back while the model learns; its
    weights wait on the CPU, its cache is thrown away. 0: it keeps its memory."""

    offload_model: bool = False
    """colocate: move the model that learns to the CPU while the engine answers."""

    offload_optimizer: bool = False
    """colocate: move the optimizer's state to the CPU while the engine answers."""

    @model_validator(mode="after")
    def _check(self) -> RolloutSection:
        path, why = "", ""
        hosts, ports = len(self.server_host), len(self.server_port)
        if self.mode == "live" and self.backend != "transformers":
            path, why = "mode", "live: the model that learns answers through transformers alone"
        elif self.asynchronous and self.place == "live":
            path = "asynchronous"
            why = "needs an engine with weights of its own: --vllm_mode colocate or server"
        elif self.asynchronous and (name := self._of_colocate()):
            path, why = name, "nothing rests where answers are drawn while the model learns"
        elif self.place == "server" and not self.server_url and not self.server_host:
            path, why = "server_host", "is needed: where swift rollout runs, such as 127.0.0.1"
        elif self.server_host and ports not in (1, hosts):
            path, why = "server_port", f"{ports} for {hosts} hosts; say one, or one for each"
        elif self.place != "colocate" and (name := self._of_colocate()):
            path, why = name, "belongs to --vllm_mode colocate: there is nothing to make room for"
        elif self.sleep_level and self.backend != "vllm":
            path, why = "sleep_level", "belongs to --use_vllm true: this engine cannot sleep"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": f"rollout.{path}", "why": why})
        return self

    def _of_colocate(self) -> str:
        names = ("sleep_level", "offload_model", "offload_optimizer")
        return next((name for name in names if getattr(self, name)), "")

    @property
    def place(self) -> Place:
        """Where answers come from."""
        return self.mode or ("colocate" if self.backend == "vllm" else "live")

    @property
    def addresses(self) -> list[str]:
        """Where the servers are, without a slash at the end."""
        if self.server_url:
            return [url.rstrip("/") for url in self.server_url]
        ports = self.server_port * (len(self.server_host) if len(self.server_port) == 1 else 1)
        pairs = zip(self.server_host, ports, strict=True)
        return [f"http://{host}:{port}" for host, port in pairs]

    @field_validator("environment")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        known = registry.entries("environment")
        if value is not None and value not in known:
            why = (
                f"{value!r} is not one of {', '.join(known)}; register it in the group environment "
                "in a file of your own (--external_plugins)"
            )
            path = "rollout.environment"
            raise PydanticCustomError("where", "{why}", {"path": path, "why": why})
        return value
