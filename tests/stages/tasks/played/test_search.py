"""Search finds what BM25 says it should."""

import json
import math
import os
from pathlib import Path

import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.tasks import open_task
from apportion.stages.tasks.played import Action, Call
from apportion.stages.tasks.played._search import open_index, read_corpus

TEXTS = {
    "cats": "Cats sleep most of the day. A cat sleeps where it is warm.",
    "moon": "Apollo 8 flew around the moon in 1968.",
    "first": "Apollo 11 landed on the moon in 1969; two men walked there.",
    "tides": "The moon makes the tides.",
    "bread": "Bread is made of flour, water and salt.",
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in TEXTS.items()))
    return path


def bm25(query: list[str], documents: list[list[str]]) -> list[float]:
    """Okapi BM25 with Lucene's idf, the obvious way. k1 1.5, b 0.75."""
    mean = sum(map(len, documents)) / len(documents)
    scores: list[float] = []
    for document in documents:
        score = 0.0
        for word in query:
            holders = sum(word in other for other in documents)
            frequency = document.count(word)
            weight = frequency / (frequency + 1.5 * (0.25 + 0.75 * len(document) / mean))
            score += math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5)) * weight
        scores.append(score)
    return scores


def test_the_order_is_that_of_bm25(corpus: Path) -> None:
    stop = {"a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of", "on", "or",
            "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with"}  # fmt: skip
    words = [
        [
            word
            for word in text.lower().replace(".", " ").replace(",", " ").replace(";", " ").split()
            if word not in stop
        ]
        for text in TEXTS.values()
    ]
    index = open_index(corpus)
    for query in ("moon", "apollo moon", "Apollo 8", "the cat of the day", "flour water 1969", "sleep sleeps"):
        asked = [word for word in query.lower().split() if word not in stop]
        scores = bm25(asked, words)
        expected = sorted((each for each in range(5) if scores[each] > 0), key=lambda each: -scores[each])
        assert index.best(query, 5) == expected, query


def test_a_query_without_a_known_word_finds_nothing(corpus: Path) -> None:
    index = open_index(corpus)
    assert [index.best(query, 3) for query in ("zebra", "the of", "", "?!", "\ud800")] == [[]] * 5
    assert index.best("moon " * 10_000, 2) == index.best("moon", 2)


def test_the_index_is_built_once_and_again_when_the_file_changes(corpus: Path) -> None:
    before = open_index(corpus)
    assert open_index(corpus) is before
    with corpus.open("a") as file:
        file.write('{"id": "new", "text": "zebra"}\n')
    os.utime(corpus, ns=(1, 1))
    assert open_index(corpus).best("zebra", 1) == [5]


def test_the_tool_shows_ids_and_the_beginning_of_texts(corpus: Path) -> None:
    task = open_task("tool/search", {"of": "arithmetic", "corpus": str(corpus), "results": 2, "characters": 10})
    assert task.options == {"of": "arithmetic", "max_turns": 6, "turn_tokens": None, "corpus": str(corpus), "results": 2, "characters": 10,
                            "terms": 3, "max_factor": 5, "max_value": 299}  # fmt: skip
    world = task.environment(next(iter(task.problems("train", 1, 0))))  # type: ignore[attr-defined]
    first = world.reset(0)
    found = world.step(Action("", [Call("search", {"query": "apollo"})]))
    assert found.observation == "[moon] Apollo 8 f\n[first] Apollo 11 "
    assert (found.kind, found.done, found.valid, found.reward) == ("search", False, True, 0.0)
    assert found.state != first
    assert world.step(Action("", [Call("search", {"query": "zebra"})])).observation == "nothing found"
    wrong = world.step(Action("", [Call("search", {})]))
    assert (wrong.observation, wrong.valid) == ("error: search needs the argument 'query', a text", False)


def test_a_parquet_corpus_without_ids_gets_numbers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": ["one", "two"]}), path)
    assert read_corpus(path) == (["0", "1"], ["one", "two"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", r"corpus \S*a\.jsonl: it has no rows"),
        ("a.jsonl", '{"id": "a"}\n', "row 0, column 'text': must be a text, got None"),
        ("a.jsonl", "not json\n", "line 1"),
        ("a.jsonl", '{"text": "?!"}\n', "its texts have no words to search"),
        ("a.json", "[" * 100_000, r"corpus \S*a\.json: lists or objects are nested too deeply"),
        ("a.json", "[1, 2]", "row 1 must be an object, got 1$"),
        ("a.csv", 'id,text\n1,"abc', r"corpus \S*a\.csv: unexpected end of data"),
        ("a.jsonl", r'{"text": "a\ud83d"}', "row 1: .* is only half a character"),
    ],
)
def test_a_corpus_that_cannot_be_used(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        open_task("tool/search", {"of": "arithmetic", "corpus": str(path)})


def test_a_long_passage_in_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text(f"id,text\n1,{'a ' * 100_000}\n")
    assert len(read_corpus(path)[1][0]) == 200_000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.jsonl", r"corpus \S*nowhere\.jsonl: no such file"),
        ("folder.jsonl", "a directory"),
        ("a.txt", r"must end in \.jsonl"),
    ],
)
def test_a_corpus_that_is_not_there(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UsageError, match=message):
        open_task("tool/search", {"of": "arithmetic", "corpus": str(tmp_path / name)})
