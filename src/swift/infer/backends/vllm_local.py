"""vLLM inside this Python: its engine is ours to call, its model runs in processes of its own.

With vllm_requests.py the only file that imports vllm. Written against ``AsyncLLM`` of vLLM 0.32.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from swift.chat.media.marks import Marks
from swift.config.engine import VllmSection
from swift.errors import ConfigError, ServerError
from swift.infer.backends.drained import Pieces, drained
from swift.infer.backends.pictures import laid_in, marked
from swift.infer.backends.served import is_plain, join
from swift.infer.backends.vllm import arguments, binding, lacks
from swift.infer.backends.vllm_requests import likely, named, of_tokens, params_of, piece_of
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
        bound = binding(settings)
        os.environ.update(bound)
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
        finally:
            for name in bound:
                del os.environ[name]
        # an answer that is read again needs a place for the token behind it
        self.context = int(self._engine.model_config.max_model_len) - self._drawn
        sees = marks is not None and self._engine.model_config.is_multimodal_model
        missing = {Ability.EMBEDDINGS, *lacks(settings), *([] if sees else [Ability.MEDIA])}
        self.abilities = frozenset(Ability) - missing
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
        self._check_pieces(request.sampling)
        return [self._call(self._heard(request, on_token))]

    def stream(self, request: Request) -> AsyncIterator[Piece]:
        """See :class:`swift.infer.engine.ServingEngine`."""
        [request] = self._check([request])
        self._check_pieces(request.sampling)
        return self._own(request)

    def _check_pieces(self, s: Sampling) -> None:
        """Refuse what does not come in pieces."""
        if s.prompt_logprobs:
            raise ConfigError("prompt_logprobs are not streamed; ask generate() for them")
        if self._twice(s):
            raise ConfigError(
                "vllm: with drawn_logprobs, logprobs are streamed of plain draws alone"
            )

    async def _own(self, request: Request) -> AsyncIterator[Piece]:
        """The pieces, in the caller's event loop."""
        loop, pieces = asyncio.get_running_loop(), Pieces()

        def put(piece: Piece | Exception) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        async def feed() -> None:
            try:
                async with aclosing(self._pieces(request)) as found:
                    async for piece in found:
                        put(piece)
            except Exception as error:
                put(named(error))

        fed = asyncio.run_coroutine_threadsafe(feed(), self._loop)
        try:
            async for piece in drained(pieces):
                yield piece
        finally:
            fed.cancel()

    async def _pieces(self, request: Request) -> Any:
        async with aclosing(self._outputs(request, RequestOutputKind.DELTA)) as outputs:
            async for output in outputs:
                yield piece_of(output, request.sampling)

    async def _whole(self, request: Request) -> Completion:
        s = request.sampling
        async with aclosing(self._outputs(request, RequestOutputKind.FINAL_ONLY)) as outputs:
            [output] = [output async for output in outputs]
        piece = piece_of(output, s)
        assert piece.finish_reason is not None
        read, others, drawn = None, None, None
        if s.prompt_logprobs:
            read = of_tokens(output.prompt_logprobs[1:], output.prompt_token_ids[1:])
        if s.prompt_top:
            others = [likely(row, s.prompt_top) for row in output.prompt_logprobs[1:]]
        if s.logprobs is not None and s.temperature > 0 and (self._drawn or is_plain(s)):
            drawn = piece.logprobs
        own = await self._again(request, piece) if self._twice(s) else piece.logprobs
        return Completion(
            piece.tokens, piece.finish_reason, own, piece.top_logprobs, read, drawn, others
        )

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
        biased = Ability.LOGIT_BIAS in self.abilities
        tokenizer = self._engine.renderer.tokenizer
        params = params_of(request.sampling, kind, tokenizer, biased=biased)
        number, name = str(next(self._numbers)), request.adapter
        adapter = None if name is None else self._known(name)
        with self._ended:
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
        laid_in(prompt["prompt_token_ids"], request)
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
            raise ConfigError(
                "the vllm engine has no sleep; start it with --vllm_enable_sleep_mode"
            )
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
            self._call(_end_tasks())  # vLLM cancels its own and does not wait for them
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _check(self, requests: Sequence[Request]) -> list[Request]:
        """The requests, for no more tokens than fit."""
        if self._closed:
            raise ConfigError("the vllm engine is closed")
        check(self.abilities, requests, self.name)
        for request in requests:
            if request.adapter is not None:
                self._known(request.adapter)
            if request.sampling.logprobs and self._twice(request.sampling):
                raise ConfigError(
                    "vllm: with drawn_logprobs, top logprobs are told of plain draws alone"
                )
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
            raise named(error) from error
        finally:
            future.cancel()  # of an interrupt


async def _start(args: AsyncEngineArgs) -> AsyncLLM:
    """Where an event loop runs, as vLLM wants it."""
    return AsyncLLM.from_engine_args(args)


async def _end_tasks() -> None:
    """Cancel what runs in this event loop, and wait for its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=5)


async def _together(work: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """Results in their order; the first failure ends all."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
