"""Webhooks: each message is a POST, signed according to Standard Webhooks.

The signature is HMAC-SHA256 of `id.timestamp.body` (standardwebhooks.com, specification 1.0.0, "Signature
scheme").
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import httpx
from typing_extensions import override

from flawscope import __version__
from flawscope.errors import InputError, one_line_message
from flawscope.pictures import text_files
from flawscope_station.settings.plugins import Plugin
from flawscope_station.settings.proxies import find_proxy
from flawscope_station.settings.values import check_web_address, redact_address, redact_text, tls_context
from flawscope_station.sinks.delivery import MessagePictures, Sink, UndeliveredError, missing_picture_fields
from flawscope_station.sinks.outbox import Message

TIMEOUTS = httpx.Timeout(15.0, connect=5.0)  # seconds to read or write each piece of data, and to connect
EXCHANGE_SECONDS = 30.0  # from the look-up of the name to the answer's first line
MAX_ANSWER_BYTES = 2048  # bytes that are read of an answer
MAX_ANSWER_SECONDS = 5.0  # seconds for which an answer is read
MAX_RETRY_AFTER = 3600.0  # seconds that Retry-After may ask for
# HTTP statuses about the address or the right to use it, not about the message, which is sent again
_RETRIED_STATUSES = (401, 402, 403, 404, 405, 407, 408, 421, 425, 426, 429)
SECRET_PREFIX = "whsec_"  # of a secret, as the specification says
MIN_SECRET_BYTES = 24  # of a secret, as the specification says
MAX_SECRET_BYTES = 64  # of a secret, as the specification says


@dataclass(frozen=True)
class WebhookSettings:
    """Settings of a webhook.

    Attributes:
        webhook: Address that gets each message as a POST.
        picture: Pictures to send.
        secret_file: File with lines `whsec_...` to sign with; None: messages are not signed.
        ca_file: File with certificates to trust beside the usual.
    """

    webhook: str
    picture: Literal["none", "picture", "overlay", "both"] = "none"
    secret_file: str | None = None
    ca_file: str | None = None

    def __post_init__(self) -> None:
        check_web_address(self.webhook)

    @property
    def address(self) -> str:
        """Return the whole address, which may hold secrets."""
        return self.webhook

    @property
    def label(self) -> str:
        """Return scheme, host and port of the address, without secrets."""
        return redact_address(self.webhook)


class Webhook(Sink):
    """Sink that sends messages to a webhook.

    Raises:
        InputError: A file of secrets or certificates cannot be read.
    """

    def __init__(self, settings: WebhookSettings, pictures: MessagePictures | None = None):
        self.settings = settings
        self.pictures = pictures
        self.address = settings.webhook
        if settings.secret_file is not None:
            read_secrets(settings.secret_file)  # raises where it cannot be used; `send` reads it again
        self._loop = asyncio.new_event_loop()  # so that an exchange can be ended as a whole
        self._client = httpx.AsyncClient(
            verify=tls_context(settings.ca_file),
            trust_env=False,
            proxy=find_proxy(settings.webhook),
            timeout=TIMEOUTS,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=1, keepalive_expiry=60.0),
            headers={"User-Agent": f"flawscope/{__version__}", "Content-Type": "application/json"},
        )

    @override
    def send(self, message: Message) -> None:
        """POST a message; return when it was answered with a status of success.

        Raises:
            UndeliveredError: There was no answer, or one with another status.
        """
        body = json.dumps(self.body(message), ensure_ascii=False, separators=(",", ":")).encode()
        headers = self._headers(message.id, body)
        try:
            response, first_line = self._loop.run_until_complete(self._exchange(body, headers))
        except (httpx.TimeoutException, TimeoutError):
            raise UndeliveredError("it does not answer in time") from None
        except Exception as error:  # unusual addresses raise other errors than httpx.HTTPError
            text = redact_text(one_line_message(error), self.address)
            raise UndeliveredError(f"it cannot be reached: {text}") from None
        if not response.is_success:
            raise _refused_error(response, redact_text(first_line, self.address)[:100])

    async def _exchange(self, body: bytes, headers: dict[str, str]) -> tuple[httpx.Response, str]:
        """Send a request; return the response and the first line of its body.

        Raises:
            TimeoutError: The exchange takes longer than `EXCHANGE_SECONDS`.
        """
        async with (
            asyncio.timeout(EXCHANGE_SECONDS),
            self._client.stream("POST", self.address, content=body, headers=headers) as response,
        ):
            return response, await _first_line(response)

    @override
    def close(self) -> None:
        """Close the connection, unless an exchange is under way, which ends by itself."""
        with suppress(RuntimeError):  # the event loop runs, for an exchange is under way
            self._loop.run_until_complete(self._client.aclose())
            self._loop.close()

    def body(self, message: Message) -> dict[str, object]:
        """Return the JSON of a message, with its pictures in base64."""
        picture_kinds = self.settings.picture
        if picture_kinds == "none" or self.pictures is None:
            return message.envelope()
        images: dict[str, str | None] = {}
        for name, read in (("picture", self.pictures.view), ("overlay", self.pictures.overlay)):
            if picture_kinds in (name, "both"):
                data = read(message)
                images[name] = None if data is None else "data:image/webp;base64," + _base64(data)
        return message.envelope(images=images, **missing_picture_fields(message, images))

    def _headers(self, id: str, body: bytes) -> dict[str, str]:
        """Return the headers of a message, signed where there are secrets."""
        timestamp = int(time.time())
        headers = {"webhook-id": id, "webhook-timestamp": str(timestamp), "Idempotency-Key": id}
        if self.settings.secret_file is not None:
            try:
                keys = read_secrets(self.settings.secret_file)  # read for each message: secrets may change
            except InputError as error:
                raise UndeliveredError(str(error)) from None
            headers["webhook-signature"] = signature_header(keys, id, timestamp, body)
        return headers


def _refused_error(response: httpx.Response, first_line: str) -> UndeliveredError:
    """Return the error of a response whose status is not success."""
    code = response.status_code
    text = f"it answered {code} {first_line}".rstrip()
    if response.has_redirect_location or 300 <= code < 400:
        return UndeliveredError(f"{text}: redirects are not followed, write the right address")
    if code >= 500 or code in _RETRIED_STATUSES:
        return UndeliveredError(text, retry_after=_parse_retry_after(response.headers.get("retry-after")))
    return UndeliveredError(text, blames_message=True)


async def _first_line(response: httpx.Response) -> str:
    """Return the first line of a response, without waiting for the rest."""
    received = b""
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(MAX_ANSWER_SECONDS):
            async for chunk in response.aiter_raw():
                received += chunk
                if len(received) >= MAX_ANSWER_BYTES or b"\n" in received:
                    break
    lines = received[:MAX_ANSWER_BYTES].decode("utf-8", "replace").split("\n")
    return "".join(character for character in lines[0].strip() if character.isprintable())


def _parse_retry_after(text: str | None) -> float:
    """Return the seconds of Retry-After; 0 where it is no number."""
    try:
        return min(MAX_RETRY_AFTER, max(0, int(text or "0")))
    except ValueError:
        return 0.0


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# ------------------------------------------------------------------------------------------------- signatures


def read_secrets(path: str) -> list[bytes]:
    """Read the keys in a file, one in each line; while a secret is being changed, the file has two.

    Raises:
        InputError: The file cannot be read, or has other content, which the message does not show.
    """
    try:
        # an empty file counts as an empty line, which `_parse_secret` refuses
        lines = text_files.read_text(path).split() or [""]
        return [_parse_secret(line) for line in lines]
    except OSError as error:
        raise InputError(f"secret_file: cannot read {path}: {error.strerror}") from None
    except ValueError:
        size_text = f"{MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} random bytes"
        error_text = f"secret_file: {path} must hold a line `{SECRET_PREFIX}` and base64 of {size_text}"
        raise InputError(error_text) from None


def _parse_secret(line: str) -> bytes:
    """Return the key of a line.

    Raises:
        ValueError: The line is no secret.
    """
    key = base64.b64decode(line.removeprefix(SECRET_PREFIX), validate=True)
    if not line.startswith(SECRET_PREFIX) or not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError("not as the specification says")
    return key


def signature_header(keys: list[bytes], id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature`: `v1,` and base64 for each key, with a space between.

    Args:
        keys: Keys to sign with.
        id: Id of the message, the header `webhook-id`.
        timestamp: Seconds since 1970, the header `webhook-timestamp`.
        body: Body of the request.
    """
    content = f"{id}.{timestamp}.".encode() + body
    return " ".join(f"v1,{_base64(hmac.digest(key, content, 'sha256'))}" for key in keys)


PLUGIN = Plugin("webhook", WebhookSettings, Webhook, paths=("secret_file", "ca_file"))
