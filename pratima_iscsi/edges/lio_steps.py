"""The single changes of LIO that a plan consists of, as values.

One rule: a step says in words what it does, and never a secret.
"""

from dataclasses import dataclass

from pratima_iscsi.edges.lio_state import Backstore, Chap


@dataclass(frozen=True, slots=True)
class Step:
    """One change; ``iqn`` names the target that it is for, "" for none of ours any more."""

    iqn: str


@dataclass(frozen=True, slots=True)
class CreateBackstore(Step):
    """Make a device."""

    backstore: Backstore

    def __str__(self) -> str:
        return f"make device {self.backstore.name}"


@dataclass(frozen=True, slots=True)
class SetBackstore(Step):
    """Change an attribute of a device."""

    name: str
    attribute: str
    value: int

    def __str__(self) -> str:
        return f"set {self.attribute} of device {self.name} to {self.value}"


@dataclass(frozen=True, slots=True)
class DeleteBackstore(Step):
    """Remove a device; its volume stays."""

    name: str

    def __str__(self) -> str:
        return f"remove device {self.name}"


@dataclass(frozen=True, slots=True)
class CreateTarget(Step):
    """Make a target with its portal group, not yet enabled."""

    def __str__(self) -> str:
        return f"make target {self.iqn}"


@dataclass(frozen=True, slots=True)
class EnableTarget(Step):
    """Let initiators in."""

    def __str__(self) -> str:
        return f"enable target {self.iqn}"


@dataclass(frozen=True, slots=True)
class DeleteTarget(Step):
    """End its sessions and remove a target with all that is in it."""

    target: str

    def __str__(self) -> str:
        return f"remove target {self.target}"


@dataclass(frozen=True, slots=True)
class SetAttribute(Step):
    """Change an attribute of a portal group."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"set {self.name} of target {self.iqn} to {self.value}"


@dataclass(frozen=True, slots=True)
class SetParameter(Step):
    """Change what sessions may negotiate."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"set {self.name} of target {self.iqn} to {self.value}"


@dataclass(frozen=True, slots=True)
class SetChap(Step):
    """Set the account of initiators without an ACL, or of one with (``initiator``)."""

    chap: Chap
    initiator: str = ""

    def __str__(self) -> str:
        whom = f" for {self.initiator}" if self.initiator else ""
        return f"set the CHAP account of target {self.iqn}{whom} to {self.chap.user or 'none'}"


@dataclass(frozen=True, slots=True)
class AddLun(Step):
    """Put a device at a LUN."""

    lun: int
    device: str

    def __str__(self) -> str:
        return f"put {self.device} at LUN {self.lun} of target {self.iqn}"


@dataclass(frozen=True, slots=True)
class RemoveLun(Step):
    """Take the device from a LUN of ``target``, also from the ACLs that map it."""

    target: str
    lun: int

    def __str__(self) -> str:
        return f"take LUN {self.lun} from target {self.target}"


@dataclass(frozen=True, slots=True)
class AddAcl(Step):
    """Let one initiator in by name."""

    initiator: str

    def __str__(self) -> str:
        return f"admit {self.initiator} to target {self.iqn}"


@dataclass(frozen=True, slots=True)
class RemoveAcl(Step):
    """Let one initiator in no more; its sessions end."""

    initiator: str

    def __str__(self) -> str:
        return f"admit {self.initiator} to target {self.iqn} no more"


@dataclass(frozen=True, slots=True)
class MapLun(Step):
    """Show one LUN to an initiator with an ACL."""

    initiator: str
    mapped: int
    lun: int

    def __str__(self) -> str:
        return f"show LUN {self.lun} of target {self.iqn} to {self.initiator} as {self.mapped}"


@dataclass(frozen=True, slots=True)
class UnmapLun(Step):
    """Show it no more."""

    initiator: str
    mapped: int

    def __str__(self) -> str:
        return f"show LUN {self.mapped} of target {self.iqn} to {self.initiator} no more"


@dataclass(frozen=True, slots=True)
class AddPortal(Step):
    """Listen for a target at one more address."""

    portal: str

    def __str__(self) -> str:
        return f"serve target {self.iqn} at {self.portal}"


@dataclass(frozen=True, slots=True)
class RemovePortal(Step):
    """Listen there no more."""

    portal: str

    def __str__(self) -> str:
        return f"serve target {self.iqn} at {self.portal} no more"


@dataclass(frozen=True, slots=True)
class SetDiscovery(Step):
    """Set what a discovery session must know; no account: nothing."""

    chap: Chap

    def __str__(self) -> str:
        return f"set the CHAP account of discovery to {self.chap.user or 'none'}"
