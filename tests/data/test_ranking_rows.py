"""Embeddings, rankings and classes: a fixture row -> the expected meaning, or a reason."""

from __future__ import annotations

from typing import Any

import pytest

from swift.chat.message import Conversation, Media, Message
from swift.data.formats.form import formats, understand
from swift.data.formats.meaning import Classification, Embedding, Ranking, with_system
from swift.errors import DataError

GROUPS, RANKED, LABELLED = formats("embedding"), formats("ranking"), formats("classification")


def said(*texts: str) -> tuple[Conversation, ...]:
    return tuple(Conversation((Message("user", text),)) for text in texts)


def turns(text: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def shown(source: str, text: str = "") -> Conversation:
    parts = (Media("image", source), text) if text else (Media("image", source),)
    return Conversation((Message("user", parts),))


[Q] = said("q")
TRIPLET = Embedding(Q, said("a"), said("b"))

EMBEDDINGS: list[tuple[dict[str, Any], Embedding]] = [
    ({"anchor": "q", "positive": "a"}, Embedding(Q, said("a"))),
    ({"anchor": "q", "positive": "a", "negative": "b"}, TRIPLET),
    ({"query": "q", "positive": "a", "negatives": ["b"]}, TRIPLET),
    ({"query": "q", "pos": ["a", "b"], "neg": ["c"]}, Embedding(Q, said("a", "b"), said("c"))),
    ({"anchor": "q", "positive": "a", "negative_1": "b", "negative_2": "c"},
     Embedding(Q, said("a"), said("b", "c"))),
    ({"query": "q", "positives": [turns("a")], "negative": None}, Embedding(Q, said("a"))),
    ({"sentence1": "q", "sentence2": "a"}, Embedding(Q, said("a"))),
    ({"sentence1": "q", "sentence2": "a", "score": 0.5}, Embedding(Q, said("a"), score=0.5)),
    ({"sentence_A": "q", "sentence_B": "a", "label": 1}, Embedding(Q, said("a"), score=1.0)),
    ({"sentence1": "q", "sentence2": "a", "score": "0.5"}, Embedding(Q, said("a"), score=0.5)),
    ({"query": "q", "response": "a", "rejected_response": ["b", "c"]},
     Embedding(Q, said("a"), said("b", "c"))),
    ({"messages": turns("q"), "positive_messages": [turns("a")]}, Embedding(Q, said("a"))),
    ({"messages": turns("q"), "positive_messages": turns("a"), "label": 0.8},
     Embedding(Q, said("a"), score=0.8)),
    ({"messages": turns("q"), "positive_messages": [turns("a")],
      "negative_messages": [turns("b"), turns("c", "assistant")]},
     Embedding(Q, said("a"), said("b", "c"))),
    ({"messages": turns("<image>"), "images": ["q.png"],
      "positive_messages": [turns("<image>a")], "positive_images": [["a.png"]],
      "negative_messages": [turns("b"), turns("<image>c")], "negative_images": [[], ["c.png"]]},
     Embedding(shown("q.png"), (shown("a.png", "a"),), (*said("b"), shown("c.png", "c")))),
]  # fmt: skip


@pytest.mark.parametrize(("row", "meaning"), EMBEDDINGS)
def test_a_group(row: dict[str, Any], meaning: Embedding) -> None:
    assert understand(row, GROUPS) == meaning


RANKINGS: list[tuple[dict[str, Any], Ranking]] = [
    ({"query": "q", "documents": ["a", "b"], "labels": [1, 0]},
     Ranking(Q, said("a", "b"), (1.0, 0.0))),
    ({"query": "q", "passages": ["a", "b"], "scores": [0.5, 0.25]},
     Ranking(Q, said("a", "b"), (0.5, 0.25))),
    ({"question": "q", "docs": ["a"], "labels": [True]}, Ranking(Q, said("a"), (1.0,))),
    ({"query": "q", "document": "a", "label": 1}, Ranking(Q, said("a"), (1.0,))),
    ({"query": "q", "positive": ["a", "b"], "negative": ["c"]},
     Ranking(Q, said("a", "b", "c"), (1.0, 1.0, 0.0))),
    ({"messages": turns("q"), "positive_messages": [turns("a", "assistant")],
      "negative_messages": [turns("b", "assistant"), turns("c", "assistant")]},
     Ranking(Q, said("a", "b", "c"), (1.0, 0.0, 0.0))),
]  # fmt: skip


@pytest.mark.parametrize(("row", "meaning"), RANKINGS)
def test_a_ranking(row: dict[str, Any], meaning: Ranking) -> None:
    assert understand(row, RANKED) == meaning


CLASSES: list[tuple[dict[str, Any], Classification]] = [
    ({"text": "q", "label": 1}, Classification(Q, 1)),
    ({"sentence": "q", "label": 0, "idx": 5}, Classification(Q, 0)),
    ({"content": "q", "label": "2"}, Classification(Q, 2)),
    ({"query": "q", "label": [0, 3]}, Classification(Q, (0, 3))),
    ({"query": "q", "labels": "[0, 3]"}, Classification(Q, (0, 3))),
    ({"text": "q", "label": 0.5}, Classification(Q, 0.5)),
    ({"text": "q", "label": [0.5, -1]}, Classification(Q, (0.5, -1.0))),
    ({"text": "q", "label": True}, Classification(Q, 1)),
    ({"messages": turns("q"), "label": 3}, Classification(Q, 3)),
    ({"query": "q", "response": "a", "label": 3},
     Classification(Conversation((*Q.messages, Message("assistant", "a"))), 3)),
    ({"text": "q", "image": "q.png", "label": 1}, Classification(shown("q.png", "q"), 1)),
]  # fmt: skip


@pytest.mark.parametrize(("row", "meaning"), CLASSES)
def test_a_class(row: dict[str, Any], meaning: Classification) -> None:
    found = understand(row, LABELLED)
    assert found == meaning
    assert isinstance(found, Classification) and type(found.label) is type(meaning.label)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("embedding", {"anchor": 5, "positive": "a"}, "anchor should be text, this is a number"),
    ("embedding", {"anchor": "q", "positive": 5}, "positive should be text, this is a number"),
    ("embedding", {"anchor": "q", "positive": [5]}, "positive[0] should be text"),
    ("embedding", {"anchor": "q", "positive": []}, "there is no positive"),
    ("embedding", {"anchor": "q", "positive": "a", "negative": [None]}, "negative[0] should be"),
    ("embedding", {"sentence1": "a", "sentence2": None}, "sentence2 should be text, this is null"),
    ("embedding", {"sentence1": "a", "sentence2": "b", "score": "high"}, "score should be a numb"),
    ("embedding", {"query": "q", "pos": ["a", "b"], "score": 1}, "score is for an anchor with one"),
    ("embedding", {"messages": turns("q"), "positive_messages": 5}, "positive_messages should be "),
    ("embedding", {"messages": turns("q"), "positive_messages": [5]}, "positive_messages[0] shoul"),
    ("embedding", {"messages": turns("q"), "positive_messages": [[5]]},
     "positive_messages[0][0] should be a JSON object"),
    ("ranking", {"query": "q", "documents": ["a"], "labels": [1, 0]},
     "documents holds 1, labels 2"),
    ("ranking", {"query": "q", "documents": ["a"], "labels": 1}, "labels should be a list"),
    ("ranking", {"query": "q", "documents": ["a"], "labels": ["x"]}, "labels[0] should be a numb"),
    ("ranking", {"query": "q", "documents": [5], "labels": [1]}, "documents[0] should be text"),
    ("ranking", {"query": "q", "documents": [], "labels": []}, "there are no documents"),
    ("classification", {"text": 5, "label": 1}, "text should be text, this is a number"),
    ("classification", {"text": "q", "label": None}, "label should be the number of a class"),
    ("classification", {"text": "q", "label": "good"}, "label should be the number of a class"),
    ("classification", {"text": "q", "label": -1}, "label should be the number of a class from 0"),
    ("classification", {"text": "q", "label": [None]}, "label[0] should be a number, this is null"),
    ("classification", {"text": "q", "label": 10**400}, "label should be a number"),
    ("classification", {"messages": [], "label": 1}, "there are no messages"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "row", "why"), WRONG)
def test_a_wrong_row_names_its_column(task: str, row: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError) as caught:
        understand(row, formats(task))
    assert str(caught.value).startswith(why)


def test_media_of_one_conversation_are_its_own() -> None:
    row = {
        "messages": turns("q"),
        "positive_messages": [turns("a"), turns("b")],
        "positive_images": [["a.png"]],
    }
    with pytest.raises(DataError, match="positive_images holds 1, positive_messages more"):
        understand(row, GROUPS)


def test_a_system_message_of_the_run_leads_the_query_alone() -> None:
    led = Conversation((Message("system", "S"), *Q.messages))
    assert with_system(TRIPLET, "S") == Embedding(led, TRIPLET.positives, TRIPLET.negatives)
    ranking = Ranking(Q, said("a"), (1.0,))
    assert with_system(ranking, "S") == Ranking(led, said("a"), (1.0,))
    assert with_system(Classification(Q, 1), "S") == Classification(led, 1)
