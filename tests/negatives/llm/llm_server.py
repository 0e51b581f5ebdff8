"""A local server for the OpenAI protocol (chat completions, files, batches) with injectable faults.

It runs in its own process, so a client can be killed and restarted while the server remembers its requests and answers.
Faults are drawn from (seed, request, repeat count of the request), so a run can be repeated with any request order.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

WORDS = ["opens", "closes", "lifts", "carries", "washes", "table", "window", "basket", "slowly", "under", "green"]

# Missing answers, and answers that arrive (and are charged) but are useless or break a rule of the method.
TRANSPORT_FAULTS = ("rate_limit", "server_error", "stall", "drop_before", "drop_after", "cut_off")
ANSWER_FAULTS = (
    "malformed", "truncated", "original_word", "too_few", "too_many", "two_words",
)  # fmt: skip
# Replies with status 200 without model output.
EMPTY_FAULTS = ("not_json", "refusal", "empty", "provider_error", "finish_error", "no_choices")
FAULTS = TRANSPORT_FAULTS + ANSWER_FAULTS + EMPTY_FAULTS
# The client cannot know that these were answered.
PAID_BUT_LOST = {"drop_after", "cut_off", "stall"}


@dataclass
class Config:
    seed: int = 0
    latency_seconds: float = 0.0
    fault_rate: float = 0.0
    faults: list[str] = field(default_factory=lambda: list(FAULTS))
    fault_limit_per_request: int = 1000  # later requests with the same body succeed
    stall_seconds: float = 3.0
    retry_after: str = "1"  # "date": an HTTP date one second ahead
    requests_per_second: float = 0.0  # 0: no limit
    burst: int = 10
    api_key: str = ""
    model: str = ""
    unsupported: list[str] = field(default_factory=list)  # fields that cause an error 400
    error: str = ""  # every chat completion fails: "insufficient_quota", "bad_request"
    without_usage: bool = False
    style: str = ""  # answer format; see STYLES
    thinking_tokens: int = 0  # answers with a lower max_tokens are cut while the model is still thinking
    forbidden: str = ""  # requests whose prompt contains this text get an error 403
    batch_seconds: float = 0.2
    batch_fate: str = "completed"  # fate of the first batch; "failed", "expired", "cancelled", "line_errors"
    drop_batch_reply: bool = False  # the first POST /batches succeeds, but its reply is lost


class Service:
    """The state and the answers of the server, without sockets."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.asked: Counter[str] = Counter()  # by request
        self.answers: dict[str, list[str]] = defaultdict(
            list
        )  # request -> ids of the answers written to an open connection
        self.lost: dict[str, list[str]] = defaultdict(list)
        self.empty: dict[str, list[str]] = defaultdict(list)  # replies without an answer
        self.counts: Counter[str] = Counter()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.early: list[float] = []  # seconds by which clients came back before their Retry-After was over
        self._not_before: dict[str, float] = {}
        self._tokens, self._refilled = float(config.burst), time.monotonic()
        self._ids = 0
        self.taken_per_second: Counter[int] = Counter()  # requests allowed by the rate limit

    def stats(self) -> dict:
        return {
            "counts": self.counts,
            "requests": sum(self.asked.values()),
            "distinct": len(self.asked),
            "answers": self.answers,
            "lost": self.lost,
            "empty": self.empty,
            "early": self.early,
            "batches": {name: batch["status"] for name, batch in self.batches.items()},
            "files": len(self.files),
            "taken_per_second": self.taken_per_second,
        }

    def new_id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}-{self._ids}"

    def rate_limited(self) -> bool:
        if not self.config.requests_per_second:
            return False
        now = time.monotonic()
        refill = (now - self._refilled) * self.config.requests_per_second
        self._tokens, self._refilled = min(self.config.burst, self._tokens + refill), now
        if self._tokens < 1:
            return True
        self._tokens -= 1
        return False

    def draw_fault(self, name: str) -> str | None:
        nth = self.asked[name]
        chooser = random.Random(f"{self.config.seed}/{name}/{nth}")
        if nth > self.config.fault_limit_per_request or chooser.random() >= self.config.fault_rate:
            return None
        return chooser.choice(self.config.faults)

    def chat(self, raw: bytes) -> tuple[int, dict | str, str | None, tuple[str, str] | None]:
        """Return status, body and fault of one chat completion and, if it is charged, the request and the answer's id."""
        now = time.monotonic()
        name = name_of(json.loads(raw))
        self.asked[name] += 1
        if now < self._not_before.pop(name, 0.0) - 0.001:
            self.early.append(now)
        request = json.loads(raw)
        if (refused := self._refusal(request)) is not None:
            return *refused, None, None
        limited = self.rate_limited()
        self.taken_per_second[int(now)] += not limited
        fault = "rate_limit" if limited else self.draw_fault(name)
        self.counts[fault or "good"] += 1
        if fault == "rate_limit":
            self._not_before[name] = now + 1.0
            return 429, _error("Rate limit reached", "rate_limit_exceeded"), fault, None
        if fault == "server_error":
            return 503, _error("The server is overloaded", "server_error"), fault, None
        if fault == "drop_before":
            return 0, "", fault, None
        answer_id = self.new_id("chatcmpl")
        charged = (name, answer_id)
        if fault == "not_json":
            return 200, f"<html>gateway {answer_id}</html>", fault, charged
        body = completion(request, answer_id, fault, self.config)
        if self.config.without_usage:
            del body["usage"]
        return 200, body, fault, charged

    def _refusal(self, request: dict) -> tuple[int, dict] | None:
        if self.config.error == "insufficient_quota":
            return 429, _error("You exceeded your current quota", "insufficient_quota")
        if self.config.error == "bad_request":
            return 400, _error("this endpoint is closed for maintenance of its prompts", "invalid_request_error")
        if self.config.error == "forbidden" or (
            self.config.forbidden and self.config.forbidden in request["messages"][1]["content"]
        ):
            return 403, _error("your input was flagged: sexual", "403")
        if self.config.model and request["model"] != self.config.model:
            return 404, _error(f"The model {request['model']!r} does not exist", "model_not_found")
        for name in self.config.unsupported:
            kind = request.get("response_format", {}).get("type")
            if name in request or name == kind:
                param = "response_format" if name == kind else name
                return 400, _error(f"Unsupported parameter: {param} {name}", "unsupported_parameter", param)
        return None

    # Batches

    def create_batch(self, raw: bytes) -> dict:
        request = json.loads(raw)
        batch = {
            "id": self.new_id("batch"), "object": "batch", "endpoint": request["endpoint"],
            "input_file_id": request["input_file_id"], "completion_window": request["completion_window"],
            "status": "validating", "created_at": int(time.time()), "metadata": request.get("metadata"),
            "output_file_id": None, "error_file_id": None, "errors": None, "ready": time.monotonic(),
        }  # fmt: skip
        self.batches[batch["id"]] = batch
        return self.see_batch(batch["id"])

    def see_batch(self, name: str) -> dict:
        batch = self.batches[name]
        age = time.monotonic() - batch["ready"]
        if batch["status"] in ("validating", "in_progress"):
            if age > self.config.batch_seconds:
                self._finish_batch(batch)
            elif age > self.config.batch_seconds / 2:
                batch["status"] = "in_progress"
        return {key: value for key, value in batch.items() if key != "ready"}

    def _finish_batch(self, batch: dict) -> None:
        first = batch is next(iter(self.batches.values()))
        fate = self.config.batch_fate if first else "completed"
        if fate == "failed":
            problem = {"code": "model_not_found", "message": "The provided model is not supported", "line": 1}
            batch.update(status="failed", errors={"object": "list", "data": [problem]})
            return
        outputs, errors = [], []
        for number, line in enumerate(self.files[batch["input_file_id"]].decode().splitlines()):
            item = json.loads(line)
            name = name_of(item["body"])
            self.asked[name] += 1
            result = {"id": self.new_id("batch_req"), "custom_id": item["custom_id"], "error": None}
            if (refused := self._refusal(item["body"])) is not None:
                result["response"] = {"status_code": refused[0], "request_id": "r", "body": refused[1]}
            elif fate in ("expired", "cancelled") and number % 2:
                result["response"], result["error"] = None, {"code": f"batch_{fate}", "message": "not executed"}
            elif fate == "line_errors" and number % 2:
                body = _error("internal error", "server_error")
                result["response"] = {"status_code": 500, "request_id": "r", "body": body}
            else:
                fault = self.draw_fault(name)
                fault = fault if fault in ANSWER_FAULTS + EMPTY_FAULTS and fault != "not_json" else None
                answer_id = self.new_id("chatcmpl")
                (self.empty if fault in EMPTY_FAULTS else self.answers)[name].append(answer_id)
                self.counts[fault or "good"] += 1
                body = completion(item["body"], answer_id, fault, self.config)
                result["response"] = {"status_code": 200, "request_id": "r", "body": body}
                outputs.append(result)
                continue
            errors.append(result)
        batch["status"] = fate if fate in ("expired", "cancelled") else "completed"
        for key, lines in (("output_file_id", outputs), ("error_file_id", errors)):
            if lines:
                batch[key] = self.new_id("file")
                self.files[batch[key]] = "\n".join(json.dumps(line) for line in lines).encode()


def name_of(request: dict) -> str:
    """Return the identity of a question, without the seed, which changes when it is asked again after an empty reply."""
    question = {key: value for key, value in request.items() if key != "seed"}
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]


STYLES = {
    "plain": lambda words, text: text,
    "think": lambda words, text: f'<think>The user wants {{"words": ["no", "no"]}}?</think>\n\n{text}',
    "closing_tag_only": lambda words, text: f'I could say {{"words": ["no", "no"]}}.\n</think>{text}',
    "text_fence": lambda words, text: f"Sure! Here are the words:\n\n```json\n{text}\n```\nLet me know if you need more.",
    "two_fences": lambda words, text: f"```\nperson <mask> the <mask>\n```\nbecomes\n```json\n{text}\n```",
    "list": lambda words, text: [{"type": "text", "text": text}],
    "magistral": lambda words, text: [
        {"type": "thinking", "thinking": [{"type": "text", "text": '{"words": ["no", "no"]}'}]}, {"type": "text", "text": text},
    ],
    "trailing_comma": lambda words, text: text.replace("]}", ",],}"),
    "single_quotes": lambda words, text: str({"words": words}),
    "numbered": lambda words, text: json.dumps({str(number): word for number, word in enumerate(words, start=1)}),
    "wrong_case": lambda words, text: json.dumps({"Words": words}),
    "nested": lambda words, text: json.dumps({"answer": {"words": [words]}}),
    "half_a_surrogate_pair": lambda words, text: text + "\ud83d",
    "sentence": lambda words, text: "SENTENCE",
    "useless": lambda words, text: "I am a language model and would rather talk about the weather \ud83d.",
}  # fmt: skip


def completion(request: dict, answer_id: str, fault: str | None, config: Config) -> dict:
    """Return a chat completion that answers the prompt of `shine_hf.negatives.llm.prompts`, corrupted by `fault`."""
    prompt = request["messages"][-1]["content"]
    chooser = random.Random(json.dumps(request, sort_keys=True))
    words, originals = [], []
    for line in re.findall(r"^Blank \d+: .*$", prompt, flags=re.MULTILINE):
        originals.append(json.loads(re.search(r', not (".*?(?<!\\)")', line).group(1)))
        offered = line.split("; preferably one of: ")[1].split(", ") if "; preferably one of: " in line else WORDS
        words.append(chooser.choice([word for word in offered if word != originals[-1]] or WORDS))
    if fault == "original_word":
        words[0] = originals[0]
    elif fault == "too_few":
        words = words[:-1]
    elif fault == "too_many":
        words = words + ["extra"]
    elif fault == "two_words":
        words[0] = words[0] + " up"
    content = STYLES[config.style or "plain"](words, json.dumps({"words": words}))
    if content == "SENTENCE":
        content = re.search(r"^Description: (.*)$", prompt, flags=re.MULTILINE).group(1)
        for word in words:
            content = content.replace("<mask>", word, 1)
    message: dict = {"role": "assistant", "content": content}
    finish_reason = "stop"
    limit = request.get("max_tokens") or request.get("max_completion_tokens") or 10**9
    if limit < config.thinking_tokens:
        message.update(content="", reasoning_content="Let me think about " * 20)
        finish_reason = "length"
    elif fault == "malformed":
        message["content"] = content[:-3] + "}}"
    elif fault == "truncated":
        message["content"], finish_reason = content[: len(content) // 2], "length"
    elif fault == "refusal":
        message.update(content=None, refusal="I cannot help with that.")
    elif fault == "empty":
        message["content"] = ""
    elif fault == "finish_error":
        message["content"], finish_reason = "", "error"
    prompt_tokens = sum(len(m["content"]) for m in request["messages"]) // 4
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 10, "total_tokens": prompt_tokens + 10}
    choices: list | None = [{"index": 0, "message": message, "finish_reason": finish_reason}]
    body = {
        "id": answer_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request["model"] + "-0001",
    }
    if fault == "provider_error":
        return {**body, "choices": None, "error": {"message": "Provider returned error", "code": 502}, "usage": usage}
    return {**body, "choices": [] if fault == "no_choices" else choices, "usage": usage}


def _error(message: str, code: str, param: str | None = None) -> dict:
    return {"error": {"message": message, "type": code, "param": param, "code": code}}


class Connection(asyncio.Protocol):
    """The part of HTTP/1.1 with keep-alive that the client uses."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].decode("latin-1")
        length = int((re.search(r"(?i)\r\ncontent-length: *(\d+)", head) or [0, 0])[1])
        if len(self.buffer) < end + 4 + length:
            return
        body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
        method, path = head.split(" ", 2)[:2]
        self.answer(method, path.split("?")[0], head, body)

    def answer(self, method: str, path: str, head: str, body: bytes) -> None:
        service, config = self.service, self.service.config
        if path == "/stats":
            self.send(200, service.stats())
        elif path == "/configure":
            for key, value in json.loads(body).items():
                setattr(config, key, value)
            self.send(200, {})
        elif config.api_key and f"Bearer {config.api_key}\r" not in head + "\r":
            sent = re.search(r"Bearer (\S*)", head)
            self.send(401, _error(f"Incorrect API key provided: {sent and sent.group(1)}", "invalid_api_key"))
        elif path == "/v1/chat/completions":
            self.answer_chat(*service.chat(body))
        elif path == "/v1/files" and method == "POST":
            boundary = re.search(r"boundary=(\S+)", head).group(1).encode()
            part = next(p for p in body.split(b"--" + boundary) if b'name="file"' in p)
            name = service.new_id("file")
            service.files[name] = part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
            self.send(200, {"id": name, "object": "file", "bytes": len(service.files[name]), "purpose": "batch",
                            "filename": "x.jsonl", "created_at": 0, "status": "processed"})  # fmt: skip
        elif path.startswith("/v1/files/") and path.endswith("/content"):
            self.send(200, service.files[path.split("/")[3]].decode())
        elif path == "/v1/batches" and method == "POST":
            batch = service.create_batch(body)
            if config.drop_batch_reply:
                config.drop_batch_reply = False
                self.transport.abort()
            else:
                self.send(200, batch)
        elif path == "/v1/batches":
            newest_first = [service.see_batch(name) for name in reversed(service.batches)]
            self.send(200, {"object": "list", "data": newest_first, "has_more": False})
        elif path.startswith("/v1/batches/") and path.split("/")[3] in service.batches:
            self.send(200, service.see_batch(path.split("/")[3]))
        else:
            self.send(404, _error(f"Unknown request URL: {method} {path}", "unknown_url"))

    def answer_chat(self, status: int, body: dict | str, fault: str | None, charged: tuple[str, str] | None) -> None:
        config, headers = self.service.config, ""
        if status == 429:
            date = email.utils.formatdate(time.time() + 2, usegmt=True)
            headers = f"Retry-After: {date if config.retry_after == 'date' else config.retry_after}\r\n"

        def deliver() -> None:
            if charged:
                name, answer_id = charged
                lost = fault in PAID_BUT_LOST or self.transport.is_closing()
                empty = fault in EMPTY_FAULTS
                service = self.service
                (service.lost if lost else service.empty if empty else service.answers)[name].append(answer_id)
            if fault in ("drop_before", "drop_after"):
                self.transport.abort()
            else:
                self.send(status, body, headers, cut_off=fault == "cut_off")

        delay = config.latency_seconds + (config.stall_seconds if fault == "stall" else 0.0)
        asyncio.get_running_loop().call_later(delay, deliver)

    def send(self, status: int, body: dict | str, headers: str = "", cut_off: bool = False) -> None:
        kind = "text/html" if isinstance(body, str) else "application/json"
        payload = (body if isinstance(body, str) else json.dumps(body)).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{headers}Content-Length: {len(payload)}\r\n\r\n"
        if self.transport.is_closing():
            return
        self.transport.write(head.encode() + (payload[: len(payload) // 2] if cut_off else payload))
        if cut_off:
            self.transport.close()


async def serve(config: Config) -> None:
    service = Service(config)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(service), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class LLMServer:
    """The server in a child process: `with LLMServer(fault_rate=0.2) as server: … server.url …`."""

    def __init__(self, **config: object) -> None:
        self.config = Config(**config)

    def __enter__(self) -> LLMServer:
        arguments = [sys.executable, __file__, json.dumps(asdict(self.config))]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self._root = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.url = self._root + "/v1"
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def stats(self) -> dict:
        with urllib.request.urlopen(self._root + "/stats") as reply:
            return json.load(reply)

    def configure(self, **changes: object) -> None:
        body = json.dumps(changes).encode()
        urllib.request.urlopen(urllib.request.Request(self._root + "/configure", data=body, method="POST")).close()


def answer_ids(raws: Iterator[str]) -> list[str]:
    """Return the ids of the answers in a cache."""
    return [match.group() for raw in raws if (match := re.search(r"chatcmpl-\d+", raw))]


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Config(**json.loads(sys.argv[1]))))
