from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from swift.chat.load import load_renderer, load_tokenizer
from swift.chat.message import Conversation, Delta, Message
from swift.errors import ConfigError, DataError
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling
from swift.infer.talk import Talker

PROMPTS = [[5, 6, 7, 8, 9], [20, 21], [30, 31, 32, 33, 34, 35, 36, 37]]


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> TransformersEngine:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return TransformersEngine(model, load_tokenizer(checkpoint))


def greedy(model: torch.nn.Module, prompt: list[int], count: int, stop: set[int]) -> list[int]:
    """The most likely token, again and again, without any cache."""
    tokens = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]


def test_greedy_tokens_equal_a_loop_without_cache(
    engine: TransformersEngine, checkpoint: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    sampling = Sampling(12)
    together = engine.generate([Request(prompt, sampling) for prompt in PROMPTS])
    for prompt, completion in zip(PROMPTS, together, strict=True):
        assert completion.tokens == greedy(model, prompt, 12, set())
        assert completion.finish_reason == "length"
        assert engine.generate([Request(prompt, sampling)])[0] == completion


def test_a_stop_token_ends_an_answer_and_is_part_of_it(
    engine: TransformersEngine, checkpoint: Path
) -> None:
    free = engine.generate([Request(PROMPTS[0], Sampling(12))])[0].tokens
    stop = free[4]
    ended = engine.generate([Request(PROMPTS[0], Sampling(12, stop_ids=(stop,)))])[0]
    assert ended.tokens == free[: free.index(stop) + 1]
    assert ended.finish_reason == "stop"


def test_tokens_stream_as_they_are_returned(engine: TransformersEngine) -> None:
    seen: list[int] = []
    completion = engine.generate([Request(PROMPTS[1], Sampling(9))], on_token=seen.append)[0]
    assert seen == completion.tokens


def test_random_choices_repeat_with_a_seed(engine: TransformersEngine) -> None:
    def sample(seed: int) -> list[int]:
        sampling = Sampling(20, temperature=1.5, seed=seed)
        return engine.generate([Request(PROMPTS[0], sampling)])[0].tokens

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_top_k_of_one_is_greedy(engine: TransformersEngine) -> None:
    hot = Sampling(10, temperature=5.0, top_k=1, seed=3)
    cold = Sampling(10)
    answers = [engine.generate([Request(PROMPTS[2], s)])[0].tokens for s in (hot, cold)]
    assert answers[0] == answers[1]


def test_the_checkpoints_own_generation_settings_do_not_mix_in(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "odd")
    file = folder / "generation_config.json"
    file.write_text('{"repetition_penalty": 50.0, "eos_token_id": 2, "min_new_tokens": 5}')
    odd = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert odd.generation_config.repetition_penalty == 50.0
    answer = TransformersEngine(odd, load_tokenizer(folder)).generate(
        [Request(PROMPTS[0], Sampling(12))]
    )[0]
    assert answer.tokens == greedy(odd, PROMPTS[0], 12, set())


def test_a_prompt_longer_than_the_context_is_named(engine: TransformersEngine) -> None:
    with pytest.raises(DataError, match="600 tokens, the model's context holds 512"):
        engine.generate([Request([5] * 600, Sampling(3))])
    assert len(engine.generate([Request([5] * 510, Sampling(30))])[0].tokens) == 2


def test_a_talker_answers_alone_as_in_a_batch_and_in_a_stream(
    engine: TransformersEngine, checkpoint: Path
) -> None:
    talker = Talker(load_renderer(checkpoint), engine, Sampling(16))
    texts = ("Who are you?", "What is the capital?")
    asked = [Conversation((Message("user", text),)) for text in texts]
    together = [message.content for message, _ in talker.answers(asked)]
    for question, answer in zip(asked, together, strict=True):
        assert talker.answers([question])[0][0].content == answer
        pieces: list[Delta] = []
        assert talker.stream(question, pieces.append).content == answer
        assert "".join(piece.content for piece in pieces) == answer


def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(
    engine: TransformersEngine, checkpoint: Path
) -> None:
    renderer = load_renderer(checkpoint)
    asked = Conversation((Message("user", "Who are you?"),))
    free = str(Talker(renderer, engine, Sampling(40)).answers([asked])[0][0].content)
    stop = free[8:11]
    message, completion = Talker(renderer, engine, Sampling(40, stop=(stop,))).answers([asked])[0]
    assert message.content == free[: free.index(stop)]
    assert completion.finish_reason == "stop"


def test_a_model_that_is_being_trained_is_left_as_it_was(checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    )
    engine = TransformersEngine(model, load_tokenizer(checkpoint))
    kept = model.train().generation_config
    modes = {name: name.startswith("model.layers.0") for name, _ in model.named_modules()}
    for name, module in model.named_modules():
        module.training = modes[name] or not name  # a part of it is frozen
    before = engine.generate([Request(PROMPTS[0], Sampling(6, logprobs=0))])[0]
    assert {name: m.training for name, m in model.named_modules()} == {**modes, "": True}
    assert model.config._attn_implementation == "eager"
    assert model.generation_config is kept
    tokens = torch.tensor([PROMPTS[0]])
    model(input_ids=tokens, labels=tokens).loss.backward()  # nothing in it is an inference tensor
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.5 * parameter.grad
    after = engine.generate([Request(PROMPTS[0], Sampling(6, logprobs=0))])[0]
    assert before.logprobs != after.logprobs
    assert after.tokens == greedy(model.eval(), PROMPTS[0], 6, set())


def test_new_weights_are_taken_at_once(engine: TransformersEngine, checkpoint: Path) -> None:
    other, own = tiny.make_model(seed=5), AutoModelForCausalLM.from_pretrained(checkpoint)
    used = TransformersEngine(own, load_tokenizer(checkpoint))
    used.update_weights(other.named_parameters())
    assert used.generate([Request(PROMPTS[0], Sampling(8))])[0].tokens == greedy(
        other.eval(), PROMPTS[0], 8, set()
    )
    with pytest.raises(ConfigError, match="the model has no nonsense"):
        used.update_weights([("nonsense", torch.zeros(1))])
    with pytest.raises(ConfigError, match=r"embed_tokens.weight has the shape \(400, 48\)"):
        used.update_weights([("model.embed_tokens.weight", torch.zeros(3, 4))])
