"""Random mutilations of what an OpenAI-compatible server says, and what `sample` makes of them.

    python tests/campaigns/hostile_servers.py --count 200 --seed 0

Every case samples from a real server on this machine whose answers are spoiled at random. It must end with an exit code
(never a traceback), one line of error where the code is not 0, and an output that is whole or not there; what was whole
before a fault is kept, and `--resume` finishes it once the server is well. No file may hold a token id that the model
does not have, or a log-probability that cannot be.
"""

import argparse
import copy
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import openai._base_client
from apportion.cli.main import app
from apportion.formats.parquet import RolloutFile
from apportion.stages.models.openai import _client as openai_client
from apportion.stages.models.policy import ModelSource
from typer.testing import CliRunner, Result

SOURCE = ModelSource("builtin:tiny", "cpu", "float32")
VOCABULARY = SOURCE.config.vocab_size
END = SOURCE.tokenizer.eos_token_id
GROUPS, SAMPLES = 6, 2
TIMEOUT_S = 0.4

ODD_VALUES: list[Any] = [
    None, True, False, -1, 0, 1.9, 5.0, VOCABULARY, 2**31, 2**63, 10**400, -(10**400), 1e308, float("nan"), float("inf"),
    -float("inf"), "", "7", "token_id:1.9", "token_id:-3", "token_id:999999", "\x1b[2J\x07\u202e", "\ud800", "x" * 50_000,
    [], [[]], {}, {"a": 1}, [None], [True], [1.5], ["1"],
]  # fmt: skip
STATUSES = (
    204,
    206,
    301,
    302,
    304,
    400,
    401,
    403,
    404,
    408,
    409,
    413,
    418,
    422,
    429,
    451,
    500,
    502,
    503,
    504,
    599,
    999,
)


def answer_to(body: dict[str, Any], random_: random.Random) -> dict[str, Any]:
    """What a well server says: any tokens, in vLLM's form."""
    prompt = body["prompt"]
    if isinstance(prompt, str):
        prompt = SOURCE.tokenizer(prompt)["input_ids"]
    ids = [random_.randrange(4, VOCABULARY) for _ in range(random_.randint(1, body["max_tokens"]))]
    ended = len(ids) < body["max_tokens"]
    if ended:
        ids[-1] = END
    logprobs = [-random_.random() for _ in ids]
    return {
        "object": "text_completion",
        "system_fingerprint": "fp",
        "choices": [
            {
                "index": 0, "text": SOURCE.tokenizer.decode(ids, skip_special_tokens=True), "token_ids": ids,
                "prompt_token_ids": prompt, "finish_reason": "stop" if ended else "length", "stop_reason": None,
                "logprobs": {
                    "tokens": [f"token_id:{token}" for token in ids], "token_logprobs": logprobs,
                    "top_logprobs": [{f"token_id:{token}": value} for token, value in zip(ids, logprobs, strict=True)],
                },
            }
        ],
        "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(ids), "prompt_tokens_details": {"cached_tokens": 0}},
    }  # fmt: skip


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in it."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


def spoiled(content: Any, random_: random.Random) -> Any:
    """The same with a value or two replaced, left out or repeated."""
    content = copy.deepcopy(content)
    for _ in range(random_.choice((1, 1, 2))):
        path = random_.choice(places(content))
        if not path:
            return random_.choice(ODD_VALUES)
        owner = content
        for key in path[:-1]:
            owner = owner[key]
        deed = random_.randrange(4)
        if deed == 0:
            del owner[path[-1]]
        elif deed == 1 and isinstance(owner, list):
            owner += owner[:1] * random_.choice((1, 500))
        else:
            owner[path[-1]] = random_.choice(ODD_VALUES)
    return content


def mangled(data: bytes, random_: random.Random) -> bytes:
    """The bytes of an answer, torn."""
    at = random_.randrange(len(data))
    return random_.choice(
        [
            data[:at],
            data[:at] + b"\x00\xff\xfe" + data[at:],
            b"[" * 200_000 + data,
            b'{"choices":' * 5_000 + b"0" + b"}" * 5_000,
            b'{"a":' + b"9" * 6_000 + b"}",
            data.replace(b"0.", b"1e99999", 1),
            data.replace(b"-0", b"NaN", 1),
            data + data,
            b"",
            b"<html>\x1b[31mBad gateway</html>",
            data.decode().encode("utf-16"),
        ]
    )


class HostileServer:
    """A server that spoils its answers with the chance `share`, from the `first`th request on. `well` heals it.

    statuses: those of its answers that were no 200.
    """

    def __init__(self, seed: int, share: float, first: int):
        self.random, self.share, self.first = random.Random(seed), share, first
        self.asked, self.well, self.lock = 0, False, threading.Lock()
        self.statuses: set[int] = set()
        self.did: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                card = {"id": "tiny", "object": "model", "owned_by": "vllm", "max_model_len": 512}
                outer.say(self, lambda _: {"object": "list", "data": [card]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.say(self, lambda random_: answer_to(body, random_))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def say(self, handler: BaseHTTPRequestHandler, answer: Callable[[random.Random], Any]) -> None:
        with self.lock:
            random_ = random.Random(self.random.getrandbits(64))
            self.asked += 1
            ill = not self.well and self.asked > self.first and random_.random() < self.share
        content = answer(random_)
        deed = random_.choice(("spoil", "spoil", "spoil", "mangle", "status", "length", "drop", "trickle", "header"))
        if ill:
            self.did.append(deed)
        if ill and deed == "spoil":
            content = spoiled(content, random_)
        data = json.dumps(content).encode()
        if ill and deed == "mangle":
            data = mangled(data, random_)
        status, promised, headers = 200, len(data), {"Content-Type": "application/json"}
        if ill and deed == "status":
            status = random_.choice(STATUSES)
            self.statuses.add(status)
            said: Any = random_.choice(
                (content, {"error": {"message": random_.choice(ODD_VALUES)}}, {"error": []}, "no")
            )
            data = json.dumps(said).encode()
            promised = len(data)
            headers |= {"Retry-After": random_.choice(("-1", "soon", "1e999", "nan", "")), "Location": "/v1/elsewhere"}
        if ill and deed == "length":
            promised = random_.choice((0, len(data) // 2, len(data) + 100))
        if ill and deed == "header":
            headers |= random_.choice(
                ({"Content-Encoding": "gzip"}, {"Content-Encoding": "br"}, {"Content-Type": "text/html; charset=\xff"},
                 {"Transfer-Encoding": "chunked"}, {"X": "y" * 60_000})
            )  # fmt: skip
        if ill and deed == "drop":
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(promised))
        handler.end_headers()
        if ill and deed == "trickle":
            for at in range(len(data)):
                handler.wfile.write(data[at : at + 1])
                time.sleep(0.05)
        else:
            handler.wfile.write(data)
        handler.close_connection = ill


def tried(seed: int, folder: Path) -> list[str]:
    """What went wrong in one case; nothing where all is as it must be."""
    random_ = random.Random(seed)
    server = HostileServer(seed, random_.choice((0.05, 0.3, 1.0)), random_.choice((0, 3, 6, 6, 10, 14)))
    try:
        return _tried(server, random_, folder)
    finally:
        server.close()


def _tried(server: HostileServer, random_: random.Random, folder: Path) -> list[str]:
    out, partial = folder / "out.parquet", folder / "out.parquet.partial"
    options = {"base_url": server.url, "retries": random_.choice((0, 1)), "timeout_s": TIMEOUT_S, "concurrency": 4}
    words = ["sample", "--engine", "openai", "--device", "cpu", "--prompts", GROUPS, "-n", SAMPLES, "--max-tokens", 6]
    words += ["--set", f"rows_at_once={2 * SAMPLES}", "-o", out]
    command = [*words, *(word for name, value in options.items() for word in ("--engine-set", f"{name}={value}"))]
    found = _ended(called(command), server, out)
    found += [f"{path.name} is left behind" for path in folder.iterdir() if path not in (out, partial)]
    if out.exists():
        return found + unsound(out, GROUPS)
    if partial.exists():
        found += unsound(partial, None)
        server.well = True
        resumed = called([*command, "--resume"])
        if resumed.exit_code not in (0, 4):
            found.append(f"--resume ends with {resumed.exit_code}: {resumed.stderr}{resumed.exception!r}")
        else:
            found += unsound(out, GROUPS)
    return found


def called(words: list[Any]) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def _ended(result: Result, server: HostileServer, out: Path) -> list[str]:
    if not isinstance(result.exception, SystemExit | None):
        return [f"a traceback: {result.exception!r:.300}"]
    found: list[str] = []
    # What a server refuses in so many words (4xx), or says when it is met, may be the command's fault.
    allowed = {0, 1, 4} | ({2} if any(400 <= each < 500 for each in server.statuses) or server.first < 6 else set())
    if result.exit_code not in allowed:
        found.append(f"exit code {result.exit_code}: {result.stderr}")
    if (result.exit_code in (0, 4)) != out.exists():
        found.append(f"exit code {result.exit_code}, and the output is {'there' if out.exists() else 'not there'}")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    if len(errors) != (result.exit_code != 0):
        found.append(f"exit code {result.exit_code} with {len(errors)} lines of error: {result.stderr}")
    if not all(character.isprintable() or character == "\n" for character in result.output):
        found.append(f"control characters on the terminal: {result.output!r}")
    return found


def unsound(path: Path, groups: int | None) -> list[str]:
    """What is wrong with a file."""
    found: list[str] = []
    checked = called(["validate", path])
    if checked.exit_code:
        found.append(f"validate {path.name}: {checked.output}")
    rollouts = RolloutFile(path).read()
    if groups is not None and (len(rollouts.groups), len(rollouts)) != (groups, groups * SAMPLES):
        found.append(f"{path.name}: {len(rollouts)} rollouts of {len(rollouts.groups)} groups")
    ids = rollouts.ragged("token.id").values
    if len(ids) and not (ids.min() >= 0 and ids.max() < VOCABULARY):
        found.append(f"{path.name}: token ids {ids.min()} to {ids.max()}")
    if "token.logprob" in rollouts:
        logprobs = rollouts.ragged("token.logprob").values
        if not (np.isfinite(logprobs).all() and (logprobs <= 0).all()):
            found.append(f"{path.name}: log-probabilities {logprobs.min()} to {logprobs.max()}")
    return found


def campaign(count: int, seed: int) -> dict[int, list[str]]:
    """{case: what went wrong} of the cases that failed."""
    # The client's own waits would make this one of minutes.
    for module, names in (
        (openai._base_client, ("INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY")),
        (openai_client, ("FIRST_WAIT", "LONGEST_WAIT")),
    ):
        for name in names:
            setattr(module, name, 0.01)
    failed: dict[int, list[str]] = {}
    for case in range(seed, seed + count):
        with tempfile.TemporaryDirectory() as folder:
            if wrong := tried(case, Path(folder)):
                failed[case] = wrong
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    failed = campaign(given.count, given.seed)
    for case, wrong in failed.items():
        print(f"case {case} (--count 1 --seed {case}): {'; '.join(wrong)}")
    print(f"hostile_servers: {given.count} cases, {len(failed)} failures")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
