"""Why a storage did not give what it was asked for, whatever library speaks to it, and whether to ask again.

Each of fsspec's file systems raises errors of its own client. They are told by what these have in common: the status
of HTTP, the code of S3's XML, Python's own kinds of errors, and the names of the clients' classes, none of which is
imported.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Literal, NamedTuple, TypeAlias

from shoal.data.urls import redacted

Why: TypeAlias = Literal["missing", "denied", "lapsed", "busy", "away", "other"]
"""There is nothing; it may not be read; the credentials are wrong, expired or none; the storage asks to come back, or
the connection failed, both of which may be otherwise in a moment; it cannot be reached at all; something else."""

_BUSY_CODES = (
    *("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException"),
    *("TooManyRequests", "TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimitExceeded", "ServerBusy"),
)
_LAPSED_CODES = (
    *("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId"),
    *("SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidClientTokenId", "AuthorizationHeaderMalformed"),
)
_LAPSED = (
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound", "RefreshError"),
    *("TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError", "DefaultCredentialsError"),
    *("AuthenticationException", "BadAuthenticationType", "ClientAuthenticationError", "GatedRepoError"),
)
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_AWAY = (
    *("EndpointConnectionError", "ClientConnectorError", "ConnectTimeoutError", "ConnectError", "gaierror"),
    *("NoValidConnectionsError", "ConnectionRefusedError", "ProxyConnectionError", "BadHostKeyException"),
    *("TimeoutError", "Timeout", "TimeoutException"),
)
_BUSY = (
    *("ClientConnectionError", "ClientPayloadError", "HTTPClientError", "IncompleteReadError", "IncompleteRead"),
    *("ResponseStreamingError", "ResponseParserError", "TransportError", "ProtocolError", "SSHException", "SSLError"),
    *("ConnectionError", "ChunkedEncodingError", "ConnectionClosedError", "EOFError"),
    *("ServiceRequestError", "ServiceResponseError", "ChecksumError", "RetryError"),
)
_BUSY_NUMBERS = {errno.EBUSY, errno.EIO, errno.EAGAIN, errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED}
_BUSY_NUMBERS |= {errno.ETIMEDOUT, getattr(errno, "EREMOTEIO", errno.EIO)}
_AWAY_NUMBERS = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ECONNREFUSED}
_LONGEST = 160  # characters of somebody else's message


class Failure(NamedTuple):
    """Why something failed, and in words."""

    why: Why
    reason: str

    @property
    def may_pass(self) -> bool:
        """Whether it may succeed in a moment."""
        return self.why in ("busy", "away")


def failure_of(error: BaseException) -> Failure:
    """Tell why a request failed."""
    chain = [*_chain(error)]
    code = next(filter(None, map(_code, chain)), "")
    status = next(filter(None, map(_status, chain)), 0)
    if (code or status) and not any(type(each).__name__ == "ClientPayloadError" for each in chain):
        return _of_answer(code, status, error)
    names = {each.__name__ for one in chain for each in type(one).__mro__}
    numbers = {one.errno for one in chain if isinstance(one, OSError)}
    for why, known, known_numbers in (
        ("lapsed", _LAPSED, {-1}),
        ("away", _AWAY, _AWAY_NUMBERS),
        ("busy", _BUSY, _BUSY_NUMBERS),
    ):
        if names & {*known} or numbers & known_numbers:
            return Failure(why, _words(chain, why))  # type: ignore[arg-type]  # mypy takes it for any text
    if "FileNotFoundError" in names or "RepositoryNotFoundError" in names:
        return Failure("missing", "there is nothing")
    if "PermissionError" in names or str(error).startswith("Forbidden:"):  # the latter of gcsfs
        return Failure("denied", "permission denied")
    return Failure("other", _first_line(error))


def _of_answer(code: str, status: int, error: BaseException) -> Failure:
    """Of a server that answered."""
    words = _phrase(status)
    reason = " ".join(each for each in (words, code) if each and each != str(status))
    if code in _ELSEWHERE and (region := next(filter(None, map(_region, _chain(error))), "")):
        return Failure("other", f"its bucket is in the region {region}: set AWS_DEFAULT_REGION to that")
    if code in _BUSY_CODES or status in (408, 425, 429, 509) or (status >= 500 and status != 501):
        return Failure("busy", reason)
    if code in _LAPSED_CODES or status in (401, 407):
        return Failure("lapsed", reason)
    if code in ("NoSuchBucket", "NoSuchKey") or status in (404, 410):
        return Failure("missing", "there is no such bucket" if code == "NoSuchBucket" else "there is nothing")
    if status == 403 or isinstance(error, PermissionError):
        return Failure("denied", reason)
    return Failure("other", reason or _first_line(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came of."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _code(error: BaseException) -> str:
    """The code of S3's answer, such as SlowDown; '' for none."""
    response = getattr(error, "response", None)
    found = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return str(found)


def _region(error: BaseException) -> str:
    """Where S3 says that a bucket is; '' where it does not."""
    response = getattr(error, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}) if isinstance(response, dict) else {}
    return str(found.get("x-amz-bucket-region", ""))


def _status(error: BaseException) -> int:
    """The status of HTTP's answer; 0 for none."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    else:
        found = next(
            (value for name in ("status", "status_code", "code") if (value := getattr(error, name, None))),
            getattr(response, "status_code", 0),
        )
    return int(found) if str(found).isdigit() and 400 <= int(found) < 600 else 0


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status) if status else ""


def _words(chain: list[BaseException], why: str) -> str:
    if why == "lapsed":
        return _first_line(chain[0])
    if any("Timeout" in each.__name__ for one in chain for each in type(one).__mro__):
        return "it does not answer in time"
    named = next((one.strerror for one in chain if isinstance(one, OSError) and one.strerror), "")
    return redacted(str(named)).splitlines()[0][:_LONGEST] if named else "the connection broke off"


def _first_line(error: BaseException) -> str:
    """Somebody else's message, without what is secret in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return redacted(text)[:_LONGEST].rstrip(".! ")
