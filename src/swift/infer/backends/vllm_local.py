"""vLLM inside this Python: its engine is ours to call, its model runs in processes of its own.

The only file that imports vllm. Written against ``AsyncLLM`` of vLLM 0.32 (vllm/v1/engine).
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from vllm import SamplingParams
from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from swift.chat.media.marks import Marks
from swift.config.engine import VllmSection
from swift.errors import ConfigError, ServerError, SwiftError
from swift.infer.backends.dialects import finish
from swift.infer.backends.pictures import marked
from swift.infer.backends.served import is_plain, join
from swift.infer.backends.vllm import arguments
from swift.infer.backends.weights import laid_out
from swift.infer.choose import room
from swift.infer.engine import Ability, Completion, Piece, Request, Sampling, check

Answer = TypeVar("Answer")


class VllmLocal:
    """Generates with vLLM; end it with :meth:`close`."""

    name = "vllm"

    def __init__(
        self,
        model: Path,
        settings: VllmSection,
        *,
        dtype: str = "auto",
        context: int | None = None,
        marks: Callable[[], Marks] | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: folder of the checkpoint.
            settings: vLLM's.
            dtype: of the weights.
            context: most tokens of prompt and answer.
            marks: how images are written, asked for when there are some.

        Raises:
            ConfigError: vLLM has no such setting, or refuses the model or a value.
            ServerError: its processes cannot be started.
        """
        self._model, self._marks = model, marks
        self._drawn, lora = settings.drawn_logprobs, settings.max_lora_rank is not None
        if self._drawn and lora:
            raise ConfigError("vllm: drawn_logprobs needs an engine without adapters")
        given = arguments(settings, context)
        given["structured_outputs_config"] = StructuredOutputsConfig(
            **given["structured_outputs_config"]
        )
        given["logprobs_mode"] = "processed_logprobs" if self._drawn else "raw_logprobs"
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()
        try:
            args = AsyncEngineArgs(str(model), dtype=dtype, use_tqdm_on_load=False, **given)
            self._engine = self._call(_start(args))
        except (TypeError, ValueError) as error:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise ConfigError(f"vLLM refuses its settings: {error}") from error
        except BaseException:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise
        # an answer that is read again needs a place for the token behind it
        self.context = int(self._engine.model_config.max_model_len) - self._drawn
        sees = marks is not None and self._engine.model_config.is_multimodal_model
        self.abilities = _abilities(settings) | ({Ability.MEDIA} if sees else set())
        self._adapters: dict[str, LoRARequest] = {}
        self._running: dict[str, str | None] = {}  # numbers of requests, and their adapters
        self._ended = threading.Condition()
        self._numbers = count(1)
        self._paused = self._closed = False
        atexit.register(self.close)

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """See :class:`swift.infer.engine.Engine`.

        Raises:
            ServerError: vLLM fails.
        """
        requests = self._check(requests)
        if on_token is None:
            return self._call(_together([self._whole(request) for request in requests]))
        [request] = requests
        return [self._call(self._heard(request, on_token))]

    def stream(self, request: Request) -> AsyncIterator[Piece]:
        """See :class:`swift.infer.engine.ServingEngine`."""
        [request] = self._check([request])
        if request.sampling.prompt_logprobs:
            raise ConfigError("prompt_logprobs are not streamed; ask generate() for them")
        if self._twice(request.sampling):
            raise ConfigError(
                "vllm: with drawn_logprobs, logprobs are streamed of plain draws alone"
            )
        return self._own(request)

    async def _own(self, request: Request) -> AsyncIterator[Piece]:
        """The pieces, in the caller's event loop."""
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Piece | Exception]()

        def put(piece: Piece | Exception) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        async def feed() -> None:
            try:
                async with aclosing(self._pieces(request)) as found:
                    async for piece in found:
                        put(piece)
            except Exception as error:
                put(_named(error))

        fed = asyncio.run_coroutine_threadsafe(feed(), self._loop)
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            fed.cancel()

    async def _pieces(self, request: Request) -> Any:
        async with aclosing(self._outputs(request, RequestOutputKind.DELTA)) as outputs:
            async for output in outputs:
                yield _piece(output, request.sampling)

    async def _whole(self, request: Request) -> Completion:
        s = request.sampling
        async with aclosing(self._outputs(request, RequestOutputKind.FINAL_ONLY)) as outputs:
            [output] = [output async for output in outputs]
        piece = _piece(output, s)
        assert piece.finish_reason is not None
        read, drawn = None, None
        if s.prompt_logprobs:
            read = _of_tokens(output.prompt_logprobs[1:], output.prompt_token_ids[1:])
        if s.logprobs is not None and s.temperature > 0 and (self._drawn or is_plain(s)):
            drawn = piece.logprobs
        own = await self._again(request, piece) if self._twice(s) else piece.logprobs
        return Completion(piece.tokens, piece.finish_reason, own, piece.top_logprobs, read, drawn)

    async def _again(self, request: Request, piece: Piece) -> list[float]:
        """What the model itself believes of an answer that was drawn from something else."""
        tokens = [*request.tokens, *piece.tokens]
        asked = replace(request, tokens=tokens, sampling=Sampling(1, prompt_logprobs=True))
        found = (await self._whole(asked)).prompt_logprobs
        assert found is not None
        return found[len(request.tokens) - 1 :] if piece.tokens else []

    def _twice(self, s: Sampling) -> bool:
        """Whether logprobs of the model itself are asked for, and vLLM tells others."""
        chosen = replace(s, temperature=1.0) if s.temperature == 0 else s
        return self._drawn and s.logprobs is not None and not is_plain(chosen)

    async def _heard(self, request: Request, on_token: Callable[[int], None]) -> Completion:
        pieces = []
        async with aclosing(self._pieces(request)) as found:
            async for piece in found:
                pieces.append(piece)
                for token in piece.tokens:
                    on_token(token)
        return join(pieces, request.sampling)

    async def _outputs(self, request: Request, kind: RequestOutputKind) -> Any:
        """What vLLM says to a request; leaving ends it there."""
        prompt = await self._prompt(request)
        params = _params(request.sampling, kind)
        number, name = str(next(self._numbers)), request.adapter
        adapter = None if name is None else self._adapters[name]
        self._running[number] = name
        try:
            run = self._engine.generate(prompt, params, number, lora_request=adapter)
            async with aclosing(run) as outputs:
                async for output in outputs:
                    yield output
        finally:
            with self._ended:
                del self._running[number]
                self._ended.notify_all()

    async def _prompt(self, request: Request) -> Any:
        """A request's prompt as vLLM reads it.

        Raises:
            ConfigError: it would read an image as other tokens.
        """
        renderer = self._engine.renderer
        if not request.media:
            [prompt] = await renderer.render_cmpl_async(
                [TokensPrompt(prompt_token_ids=request.tokens)]
            )
            return prompt
        assert self._marks is not None
        encode = partial(renderer.tokenizer.encode, add_special_tokens=False)
        tokens, images = marked(request.tokens, request.media, self._marks(), encode)
        raw = TokensPrompt(prompt_token_ids=tokens, multi_modal_data={"image": images})
        [prompt] = await renderer.render_cmpl_async([raw])
        if (found := list(prompt["prompt_token_ids"])) != request.tokens:
            raise ConfigError(
                f"vLLM reads the images as {len(found) - len(tokens) + len(images)} tokens, the "
                f"checkpoint's processor as {len(request.tokens) - len(tokens) + len(images)}"
            )
        return prompt

    def load_adapter(self, name: str, path: str) -> None:
        """See :class:`swift.infer.engine.ServingEngine`."""
        if Ability.ADAPTERS not in self.abilities:
            raise ConfigError("the vllm engine has no adapters; start it with --vllm_max_lora_rank")
        if name in self._adapters:
            raise ConfigError(f"an adapter {name!r} is loaded already; unload it first")
        adapter = LoRARequest(name, next(self._numbers), path)
        try:
            self._call(self._engine.add_lora(adapter))
        except ServerError as error:
            raise ConfigError(f"the adapter {path} cannot be loaded: {error}") from error
        self._adapters[name] = adapter

    def unload_adapter(self, name: str) -> None:
        """See :class:`swift.infer.engine.ServingEngine`."""
        adapter = self._known(name)
        del self._adapters[name]  # new requests are refused
        with self._ended:
            self._ended.wait_for(lambda: name not in self._running.values())
        self._call(self._engine.remove_lora(adapter.lora_int_id))

    def _known(self, name: str) -> LoRARequest:
        if name not in self._adapters:
            there = ", ".join(sorted(self._adapters)) or "none"
            raise ConfigError(f"no adapter {name!r} is loaded (loaded: {there})")
        return self._adapters[name]

    def update_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        """See :class:`swift.infer.engine.ServingEngine`; answers under way are read once more.

        Raises:
            ConfigError: they are not all weights of the model, with its shapes.
        """
        with laid_out(weights, self._model) as folder:
            self._call(self._renew(str(folder)))

    async def _renew(self, folder: str) -> None:
        await self._engine.pause_generation(mode="keep", clear_cache=True)
        try:
            await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        finally:
            if not self._paused:
                await self._engine.resume_generation()

    def pause(self) -> None:
        """See :class:`swift.infer.engine.RestingEngine`."""
        self._paused = True
        self._call(self._engine.pause_generation(mode="keep", clear_cache=False))

    def resume(self) -> None:
        """See :class:`swift.infer.engine.RestingEngine`."""
        self._paused = False
        self._call(self._engine.resume_generation())

    def sleep(self) -> None:
        """See :class:`swift.infer.engine.RestingEngine`."""
        if Ability.SLEEP not in self.abilities:
            raise ConfigError("the vllm engine has no sleep; start it with vllm.enable_sleep_mode")
        self._call(self._engine.sleep(1, mode="abort"))

    def wake(self) -> None:
        """See :class:`swift.infer.engine.RestingEngine`."""
        self._call(self._engine.wake_up())

    def close(self) -> None:
        """See :class:`swift.infer.engine.ServingEngine`."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self._call(self._engine.abort(list(self._running)))
        finally:
            self._engine.shutdown(timeout=20)  # for its processes to end by themselves
            del self._engine  # else it is ended again when Python ends, without what it needs
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _check(self, requests: Sequence[Request]) -> list[Request]:
        """The requests, for no more tokens than fit."""
        if self._closed:
            raise ConfigError("the vllm engine is closed")
        check(self.abilities, requests, self.name)
        for request in requests:
            if request.adapter is not None:
                self._known(request.adapter)
        limits = [room(request, self.context) for request in requests]
        return [
            replace(request, sampling=replace(request.sampling, max_tokens=limit))
            for request, limit in zip(requests, limits, strict=True)
        ]

    def _call(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Do something in vLLM's event loop."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except Exception as error:
            raise _named(error) from error
        finally:
            future.cancel()  # of an interrupt


async def _start(args: AsyncEngineArgs) -> AsyncLLM:
    """Where an event loop runs, as vLLM wants it."""
    return AsyncLLM.from_engine_args(args)


async def _together(work: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """Results in their order; the first failure ends all."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _abilities(settings: VllmSection) -> frozenset[Ability]:
    lora = settings.max_lora_rank is not None
    missing = {Ability.MEDIA, Ability.EMBEDDINGS}
    # with adapters vLLM 0.32 dies of prompt_logprobs
    missing.add(Ability.PROMPT_LOGPROBS if lora else Ability.ADAPTERS)
    missing |= set() if settings.enable_sleep_mode else {Ability.SLEEP}
    return frozenset(Ability) - missing


def _named(error: Exception) -> Exception:
    """An error of vLLM as one of ours."""
    if isinstance(error, SwiftError | TypeError):
        return error
    if isinstance(error, VLLMClientError | ValueError):
        return ConfigError(f"vLLM refuses it: {error}")
    return ServerError(f"vLLM: {error.__cause__ or error!r}")


def _params(s: Sampling, kind: RequestOutputKind) -> SamplingParams:
    guide = None
    if s.guide is not None:
        value = list(s.guide.value) if s.guide.kind == "choice" else s.guide.value
        guide = StructuredOutputsParams(**{s.guide.kind: value})
    params = SamplingParams(
        max_tokens=s.max_tokens,
        temperature=s.temperature,
        top_p=s.top_p,
        top_k=s.top_k,
        min_p=s.min_p,
        repetition_penalty=s.repetition_penalty,
        presence_penalty=s.presence_penalty,
        frequency_penalty=s.frequency_penalty,
        stop=list(s.stop),
        stop_token_ids=list(s.stop_ids),
        ignore_eos=s.guide is None or bool(s.stop_ids),  # only what the request says ends it
        seed=s.seed,
        logprobs=s.logprobs,
        prompt_logprobs=0 if s.prompt_logprobs else None,
        logit_bias=dict(s.logit_bias) or None,
        structured_outputs=guide,
        detokenize=bool(s.stop),
        skip_special_tokens=False,
        output_kind=kind,
    )
    if s.bad_words:  # vLLM's own are texts; what it makes of them are token ids, as here
        params._bad_words_token_ids = [list(word) for word in s.bad_words]
        assert params.bad_words_token_ids == [list(word) for word in s.bad_words]
    return params


def _piece(output: Any, sampling: Sampling) -> Piece:
    """The tokens of a ``RequestOutput``."""
    one, wanted = output.outputs[0], sampling.logprobs
    tokens, rows = list(one.token_ids), one.logprobs or []
    top = [_likely(row, wanted) for row in rows] if wanted else None
    logprobs = None if wanted is None else _of_tokens(rows, tokens)
    return Piece(tokens, logprobs, top, finish(one.finish_reason))


def _likely(row: Any, wanted: int) -> dict[int, float]:
    pairs = sorted(((t, p.logprob) for t, p in row.items()), key=lambda pair: -pair[1])
    return dict(pairs[:wanted])


def _of_tokens(rows: Iterable[Any], tokens: Iterable[int]) -> list[float]:
    return [row[token].logprob for row, token in zip(rows, tokens, strict=True)]
