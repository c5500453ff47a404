"""Many callers at once: one thread that lets answers join and leave a running batch.

In every round waiting prompts are read, up to a number of tokens, and then every running answer
gets one token; so a long prompt does not hold up the others, and a new caller does not wait for the
slowest. A model whose rows cannot join a running batch is answered in batches one after another.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from transformers import PreTrainedModel

from swift.errors import ResourceError, SwiftError
from swift.infer.backends.padded import generate_padded
from swift.infer.backends.prefixes import Prefixes
from swift.infer.backends.stepper import Call, Prompt, Stepper
from swift.infer.choose import Row, advance
from swift.infer.engine import Piece
from swift.models.load import is_out_of_memory

Using = Callable[[], AbstractContextManager[PreTrainedModel]]
Send = Callable[[Piece | Exception], None]
Features = Callable[[Sequence[Row]], Mapping[str, torch.Tensor]]


class Job:
    """One caller's answer under way."""

    def __init__(self, row: Row, send: Send) -> None:
        self.row, self._send = row, send
        self.cancelled = False
        self.prompt: Prompt | None = None
        self._sent = 0
        self.ended = False

    def heard(self, token: int) -> None:
        """Send a token of a batch that cannot be left; a cancelled answer ends here."""
        if self.cancelled:
            self.row.finish = self.row.finish or "cancelled"
        self.report()

    def report(self) -> None:
        """Send what is new."""
        if self.ended or (len(self.row.tokens) == self._sent and self.row.finish is None):
            return
        piece, self._sent = self.row.piece(self._sent), len(self.row.tokens)
        self.ended = self.row.finish is not None
        self._pass(self.row.error or piece)

    def fail(self, error: Exception) -> None:
        """End with an error."""
        if not self.ended:
            self.ended = True
            self._pass(error)

    def _pass(self, piece: Piece | Exception) -> None:
        try:
            self._send(piece)
        except Exception:  # the caller's own loop is gone: nobody is left to tell
            self.cancelled = self.ended = True


class Scheduler:
    """The thread, and who waits for it."""

    def __init__(
        self,
        using: Using,
        call: Call,
        features: Features,
        *,
        joins: Callable[[], bool],
        pad: int,
        rows: int,
        tokens: Callable[[], int],
        kept: float = 0.0,
        chunk: int = 512,
    ) -> None:
        """Get ready; the thread starts with the first job.

        Args:
            using: the model, for one round.
            call: what runs rows with given adapters.
            features: what the model reads beside a row's tokens.
            joins: whether rows can join a running batch; asked once.
            pad: any id.
            rows: most answers that run at once.
            tokens: most tokens that the cache holds (rows times the longest), asked once; one
                answer alone may have more.
            kept: share of these tokens for prompts that were read, for those that begin alike.
            chunk: prompt tokens read between two steps.
        """
        self._using, self._call, self._features = using, call, features
        self._joins, self._pad = joins, pad
        self._rows, self._find_tokens, self._chunk = rows, tokens, chunk
        self._tokens, self._share = 0, kept
        self.prefixes = Prefixes(0)
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._reading: list[Job] = []
        self._running: list[Job] = []
        self._thread: threading.Thread | None = None
        self._stepper: Stepper | None = None
        self._closed = False
        self._paused = False
        self._stale = False
        self.can_join: bool | None = None

    def submit(self, job: Job) -> None:
        """Let an answer begin as soon as there is room."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.append(job)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="generate", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Let an answer end with the next round."""
        with self._changed:
            job.cancelled = True
            self._changed.notify_all()

    def forget(self) -> None:
        """The weights are new: running answers are read once more before they go on."""
        self._stale = True

    def pause(self) -> None:
        """Begin no round any more."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def wait_until_resumed(self) -> None:
        """Wait while it is paused."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._paused)

    def wait_until_unused(self, adapter: str) -> None:
        """Wait until no answer needs an adapter."""
        with self._changed:
            self._changed.wait_for(
                lambda: all(job.row.request.adapter != adapter for job in self._all())
            )

    def close(self) -> None:
        """End everything; answers under way end as ``cancelled``."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    @property
    def busy(self) -> int:
        """Answers under way and waiting."""
        with self._changed:
            return len(self._all())

    def _all(self) -> list[Job]:
        return [*self._waiting, *self._reading, *self._running]

    def _may_work(self) -> bool:
        return self._closed or (bool(self._all()) and not self._paused)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_work)
                if self._closed:
                    break
            try:
                self._round()
            except BaseException as error:  # whatever it is, callers are told and the thread lives
                self._fail(error)
        with self._changed:
            for job in self._all():
                job.row.finish = job.row.finish or "cancelled"
                job.report()
            self._forget_all()
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        """End the answers of a round that failed; those that wait do not know of it, unless the
        round failed before anybody had a part in it.
        """
        told = _told(error)
        with self._changed:
            for job in [*self._reading, *self._running] or list(self._waiting):
                job.fail(told)
            waiting = [job for job in self._waiting if not job.ended]
            self._forget_all()
            self._waiting.extend(waiting)
            self._changed.notify_all()

    def _forget_all(self) -> None:
        self._waiting.clear()
        self._reading.clear()
        self._running.clear()
        self.prefixes.clear()
        if self._stepper is not None:
            self._stepper.clear()

    def _round(self) -> None:
        with self._using() as model:
            if self.can_join is None:
                self.can_join = self._joins()
                if self.can_join:
                    self._stepper = Stepper(model, self._call)
                    tokens = self._find_tokens()
                    self.prefixes = Prefixes(int(tokens * self._share))
                    self._tokens = int(tokens * (1 - self._share))
            if self._stepper is None:
                self._batch()
            else:
                self._refresh(self._stepper)
                self._drop(self._stepper)
                self._read(self._stepper)
                self._step(self._stepper)
        with self._changed:
            self._changed.notify_all()

    def _refresh(self, stepper: Stepper) -> None:
        """After new weights: every answer goes back to its prompt, with what it has so far."""
        if not self._stale:
            return
        self._stale = False
        stepper.clear()
        self.prefixes.clear()
        with self._changed:
            self._waiting.extendleft(reversed([*self._running, *self._reading]))
            for job in self._waiting:
                job.prompt = None
            self._running.clear()
            self._reading.clear()

    def _drop(self, stepper: Stepper) -> None:
        """Take away whoever was cancelled."""
        with self._changed:
            for job in [job for job in self._all() if job.cancelled]:
                job.row.finish = "cancelled"
                job.report()
                if job in self._running:
                    self._leave(stepper, self._running.index(job))
            self._waiting = deque(job for job in self._waiting if not job.ended)
            self._reading = [job for job in self._reading if not job.ended]

    def _leave(self, stepper: Stepper, index: int) -> None:
        stepper.leave(index)
        last = self._running.pop()
        if index < len(self._running):
            self._running[index] = last

    def _read(self, stepper: Stepper) -> None:
        """Read prompts, the oldest first, until the round's share is used up."""
        share = self._chunk
        while share > 0 and (job := self._next(stepper)) is not None:
            try:
                share -= self._read_one(stepper, job, share)
            except Exception as error:
                job.fail(_told(error))
                self._reading.remove(job)
                if stepper.rows != len(self._running):  # it broke while it joined the others
                    raise

    def _next(self, stepper: Stepper) -> Job | None:
        """The prompt that is being read, or the next one that has room."""
        if self._reading:
            return self._reading[0]
        with self._changed:
            if not self._waiting or stepper.rows >= self._rows:
                return None
            job = self._waiting[0]
            row = job.row
            most = len(row.request.tokens) + row.limit
            width = max([most, *(len(j.row.request.tokens) + j.row.limit for j in self._running)])
            if stepper.rows and (stepper.rows + 1) * width > self._tokens:
                return None
            self._reading.append(self._waiting.popleft())
            return job

    def _read_one(self, stepper: Stepper, job: Job, share: int) -> int:
        """Read up to ``share`` tokens of a prompt; returns how many were read."""
        row = job.row
        if job.prompt is None:
            tokens, features = [*row.request.tokens, *row.tokens], self._features([row])
            featured = len(row.request.tokens) if features else 0
            job.prompt = Prompt(tokens, row.request.adapter, features, featured)
            self.prefixes.begin(job.prompt)
        before = job.prompt.read
        logits_V = stepper.read(job.prompt, share)
        read = job.prompt.read - before
        if logits_V is not None:
            self.prefixes.keep(job.prompt)
            advance([row], logits_V[None])
            if row.finish is None:
                stepper.join(job.prompt)
            job.prompt = None  # a step reads copies of its keys
            with self._changed:  # at once, for whoever asks which adapters are in use
                self._reading.remove(job)
                self._running += [job] if row.finish is None else []
            job.report()
        return read

    def _step(self, stepper: Stepper) -> None:
        """One more token for every running answer."""
        if not self._running:
            return
        rows = [job.row for job in self._running]
        advance(rows, stepper.step([row.tokens[-1] for row in rows]))
        with self._changed:
            for index in reversed(range(len(self._running))):
                job = self._running[index]
                job.report()
                if job.ended:
                    self._leave(stepper, index)

    def _batch(self) -> None:
        """All that wait as one batch, to its end."""
        with self._changed:
            for job in [job for job in self._waiting if job.cancelled]:
                job.row.finish = "cancelled"
                job.report()
            waiting = [job for job in self._waiting if not job.ended]
            seeing = bool(waiting and waiting[0].row.request.media)
            alike = [job for job in waiting if bool(job.row.request.media) == seeing]
            self._running = alike[: self._rows]
            self._waiting = deque(job for job in waiting if job not in self._running)
        if self._running:
            rows = [job.row for job in self._running]
            for job in self._running:
                job.row.on_token = job.heard
            run, more = self._call([row.request.adapter for row in rows])
            generate_padded(run, rows, self._pad, {**self._features(rows), **more})
        with self._changed:
            self._running.clear()


def _told(error: BaseException) -> Exception:
    """What a caller is told of an error."""
    if isinstance(error, SwiftError):
        return error
    if is_out_of_memory(error):
        return ResourceError(f"memory ran out while generating: {error}")
    return RuntimeError(f"generating failed: {error!r}")
