"""CHAP (RFC 1994, RFC 7143 12.1.3) with MD5 and SHA-256, for both sides.

    initiator  CHAP_A=7,5                  target  CHAP_A=7  CHAP_I=n  CHAP_C=0x…
    initiator  CHAP_N=name  CHAP_R=0x…  [CHAP_I=m  CHAP_C=0x…]     target  [CHAP_N  CHAP_R]

One rule: a secret only ever enters a digest together with a challenge that is not our own.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pratima_iscsi.iscsi.text import decode_binary, decode_number, encode_binary
from pratima_iscsi.limits import CHAP_BINARY_BYTES_MAX, CHAP_CHALLENGE_BYTES

ALGORITHMS: Final = {"7": "sha256", "5": "md5"}
"""CHAP_A tokens, as exact strings, and their digests; the first offered of these is taken."""

Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Account:
    """Who may log in and, for mutual authentication, who we say that we are.

    ``mutual_name`` and ``mutual_secret`` are both set or both empty.
    """

    name: str
    secret: str
    mutual_name: str = ""
    mutual_secret: str = ""

    def __post_init__(self) -> None:
        if not self.name or not self.secret:
            raise ValueError("a CHAP account needs a name and a secret")
        if bool(self.mutual_name) != bool(self.mutual_secret):
            raise ValueError("mutual CHAP needs both a name and a secret")
        if self.mutual_secret == self.secret:
            raise ValueError("mutual CHAP needs a secret of its own (RFC 7143 9.2.1)")

    def __repr__(self) -> str:
        return f"Account({self.name!r})"  # Secrets stay out of logs and tracebacks.


class AuthenticationError(Exception):
    """The peer did not prove who it is, or broke the exchange's form."""


def response(algorithm: str, identifier: int, secret: str, challenge: bytes) -> bytes:
    """The digest over identifier, secret and challenge (RFC 1994 4.1)."""
    digest = hashlib.new(ALGORITHMS[algorithm], usedforsecurity=False)
    digest.update(bytes([identifier]) + secret.encode("utf-8") + challenge)
    return digest.digest()


class Authenticator:
    """The target's side of one login's exchange."""

    __slots__ = ("_accounts", "_algorithm", "_challenge", "_identifier", "account")

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._accounts = {account.name: account for account in accounts}
        self._algorithm = ""
        self._identifier = 0
        self._challenge = b""
        self.account: Account | None = None
        """Who has proved to be who, once it has."""

    def step(self, keys: dict[str, str]) -> Pairs:
        """Answer the CHAP keys of one request; ``AuthenticationError`` ends the login."""
        if self.account is not None:
            raise AuthenticationError("CHAP keys after the exchange has ended")
        if not self._algorithm:
            return self._challenge_for(keys)
        return self._verify(keys)

    def _challenge_for(self, keys: dict[str, str]) -> Pairs:
        offered = keys.get("CHAP_A", "").split(",")
        algorithm = next((token for token in offered if token in ALGORITHMS), "")
        if not algorithm:
            raise AuthenticationError("CHAP_A offers no algorithm that we have")
        self._algorithm = algorithm
        self._identifier = secrets.randbelow(256)
        self._challenge = secrets.token_bytes(CHAP_CHALLENGE_BYTES)
        return [
            ("CHAP_A", algorithm),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", encode_binary(self._challenge)),
        ]

    def _verify(self, keys: dict[str, str]) -> Pairs:
        if "CHAP_N" not in keys or "CHAP_R" not in keys:
            raise AuthenticationError("CHAP_N or CHAP_R is missing")
        try:
            given = decode_binary(keys["CHAP_R"])
        except ValueError as error:
            raise AuthenticationError("CHAP_R is malformed") from error
        account = self._accounts.get(keys["CHAP_N"])
        # An unknown name costs the same digest, so that time does not tell names.
        secret = account.secret if account else secrets.token_hex()
        wanted = response(self._algorithm, self._identifier, secret, self._challenge)
        if not hmac.compare_digest(given, wanted) or account is None:
            raise AuthenticationError("the CHAP response is wrong")
        answer = self._mutual(keys, account)
        self.account = account
        return answer

    def _mutual(self, keys: dict[str, str], account: Account) -> Pairs:
        if "CHAP_I" not in keys and "CHAP_C" not in keys:
            return []
        if not account.mutual_secret:
            raise AuthenticationError("mutual CHAP is asked for and no secret is set")
        identifier, challenge = decode_challenge(keys)
        if hmac.compare_digest(challenge, self._challenge):
            raise AuthenticationError("our own challenge came back")
        digest = response(self._algorithm, identifier, account.mutual_secret, challenge)
        return [("CHAP_N", account.mutual_name), ("CHAP_R", encode_binary(digest))]


def decode_challenge(keys: dict[str, str]) -> tuple[int, bytes]:
    """CHAP_I and CHAP_C; ``AuthenticationError`` when they are missing or malformed."""
    try:
        identifier = decode_number(keys["CHAP_I"])
        challenge = decode_binary(keys["CHAP_C"])
    except (KeyError, ValueError) as error:
        raise AuthenticationError("CHAP_I or CHAP_C is missing or malformed") from error
    if not 0 <= identifier <= 255 or not 0 < len(challenge) <= CHAP_BINARY_BYTES_MAX:
        raise AuthenticationError("CHAP_I or CHAP_C is out of range")
    return identifier, challenge


class Claimant:
    """The initiator's side: proves its account, and checks the target's where mutual."""

    __slots__ = ("_account", "_algorithm", "_challenge", "_identifier", "_offered", "proven")

    def __init__(self, account: Account, algorithms: tuple[str, ...] = ("7", "5")) -> None:
        self._account = account
        self._offered = algorithms
        self._algorithm = ""
        self._identifier = 0
        self._challenge = b""
        self.proven = not account.mutual_secret
        """Whether the target has proved itself, or need not."""

    def offer(self) -> Pairs:
        """The algorithms, best first."""
        return [("CHAP_A", ",".join(self._offered))]

    def prove(self, keys: dict[str, str]) -> Pairs:
        """Answer the target's challenge, with one of ours where the target must prove itself."""
        algorithm = keys.get("CHAP_A", "")
        if algorithm not in self._offered:
            raise AuthenticationError("the target chose an algorithm that was not offered")
        identifier, challenge = decode_challenge(keys)
        digest = response(algorithm, identifier, self._account.secret, challenge)
        pairs = [("CHAP_N", self._account.name), ("CHAP_R", encode_binary(digest))]
        self._algorithm = algorithm
        if self._account.mutual_secret:
            self._identifier = secrets.randbelow(256)
            self._challenge = secrets.token_bytes(CHAP_CHALLENGE_BYTES)
            pairs.append(("CHAP_I", str(self._identifier)))
            pairs.append(("CHAP_C", encode_binary(self._challenge)))
        return pairs

    def check(self, keys: dict[str, str]) -> None:
        """Check the target's own response; ``AuthenticationError`` unless it is right."""
        if self.proven:
            return
        try:
            given = decode_binary(keys["CHAP_R"])
        except (KeyError, ValueError) as error:
            raise AuthenticationError("the target did not prove itself") from error
        secret = self._account.mutual_secret
        wanted = response(self._algorithm, self._identifier, secret, self._challenge)
        named = keys.get("CHAP_N", "") == self._account.mutual_name
        if not hmac.compare_digest(given, wanted) or not named:
            raise AuthenticationError("the target's CHAP response is wrong")
        self.proven = True
