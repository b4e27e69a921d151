"""What an operator asks of a daemon, what it answers, and both as MessagePack.

One rule: a verb that gives something up has a field that says what, false unless set, and is not
carried out without it.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from pratima_iscsi.control.sections import ServeGroupSection
from pratima_iscsi.control.status import NodeStatus
from pratima_iscsi.control.target_list import TargetList
from pratima_iscsi.errors import StateError
from pratima_iscsi.limits import CONTROL_BYTES_MAX, NAME_BYTES_MAX

_Name = Annotated[str, Meta(max_length=NAME_BYTES_MAX)]


class Request(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="verb", forbid_unknown_fields=True
):
    """What all requests have: a group's name; empty: the only one, or all of them for status."""

    group: _Name = ""


class StatusRequest(Request, frozen=True, kw_only=True, tag="status"):
    """How do things stand?"""


class LinkRequest(Request, frozen=True, kw_only=True):
    """A request about one link, named by its replica's address; empty: all links of the group."""

    replica: _Name = ""


class ResyncRequest(LinkRequest, frozen=True, kw_only=True, tag="resync"):
    """Bring over what the replica lacks now, without waiting for back-off.

    ``from_primary`` declares the primary's content the truth after it lost power.
    """

    from_primary: bool = False


class KillRequest(LinkRequest, frozen=True, kw_only=True, tag="kill"):
    """Drop the queue and the session at once; their blocks go into the table."""

    drop_queue: bool = False
    """Given up: the order of what was queued; the replica gets those blocks by a resync."""


class ReconnectRequest(LinkRequest, frozen=True, kw_only=True, tag="reconnect"):
    """Connect now, without waiting for back-off."""


class EnableRequest(LinkRequest, frozen=True, kw_only=True, tag="enable"):
    """Put a disabled link to work; it starts from a comparison."""


class DisableRequest(LinkRequest, frozen=True, kw_only=True, tag="disable"):
    """Stop a link and forget its table."""

    forget_table: bool = False
    """Given up: which blocks the replica lacks; ``enable`` then compares all of them."""


class CleanRequest(LinkRequest, frozen=True, kw_only=True, tag="clean"):
    """Declare the replica equal, with nothing copied, once a comparison has found no difference."""

    without_proof: bool = False
    """Given up: the comparison. What differs stays different, and nobody knows of it."""


class CreateTargetRequest(Request, frozen=True, kw_only=True, tag="target create"):
    """Serve one more group, from now on and after every restart; its paths are absolute.

    One that is served so already is left as it is.
    """

    target: ServeGroupSection


class DeleteTargetRequest(Request, frozen=True, kw_only=True, tag="target delete"):
    """Serve a group no more; its volumes and its state stay.

    ``end_sessions`` gives up what its initiators have under way.
    """

    end_sessions: bool = False


class ListTargetsRequest(Request, frozen=True, kw_only=True, tag="target list"):
    """Which targets are there?"""


class ResizeRequest(Request, frozen=True, kw_only=True, tag="resize"):
    """Grow a volume; an empty ``volume``: the only one. No ``size``: what its device has by now.

    ``replicas_later``: also while a replica cannot be asked; it then grows when it is back.
    """

    volume: _Name = ""
    size: Annotated[int, Meta(ge=0)] | None = None
    replicas_later: bool = False


class Done(msgspec.Struct, frozen=True, tag_field="type", tag="done"):
    """It was done, or begun; ``message`` says what."""

    message: str


class Failed(msgspec.Struct, frozen=True, tag_field="type", tag="failed"):
    """It was not done."""

    problem: str
    next_step: str = ""
    exit_code: int = 2


AnyRequest = (
    StatusRequest
    | ResyncRequest
    | KillRequest
    | ReconnectRequest
    | EnableRequest
    | DisableRequest
    | CleanRequest
    | CreateTargetRequest
    | DeleteTargetRequest
    | ListTargetsRequest
    | ResizeRequest
)
Answer = NodeStatus | TargetList | Done | Failed

_encoder: Final = msgspec.msgpack.Encoder()
_requests: "msgspec.msgpack.Decoder[AnyRequest]" = msgspec.msgpack.Decoder(AnyRequest)
_answers: "msgspec.msgpack.Decoder[Answer]" = msgspec.msgpack.Decoder(Answer)


def encode_request(request: Request) -> bytes:
    """The request's bytes."""
    return _encoder.encode(request)


def encode_answer(answer: Answer) -> bytes:
    """The answer's bytes; one that is too long becomes a refusal."""
    data = _encoder.encode(answer)
    if len(data) > CONTROL_BYTES_MAX:
        return _encoder.encode(Failed("the answer is too long", "ask for one group: --group NAME"))
    return data


def decode_request(data: bytes) -> AnyRequest:
    """A client's request; raises StateError for anything else."""
    try:
        return _requests.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise StateError(
            f"the request was not understood: {error}",
            "use the pratima command of the daemon's own version",
        ) from None


def decode_answer(data: bytes) -> Answer:
    """A daemon's answer; raises StateError for anything else."""
    try:
        return _answers.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise StateError(
            f"the daemon's answer was not understood: {error}",
            "use the pratima command of the daemon's own version",
        ) from None
