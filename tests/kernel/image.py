"""What the lab boots: a kernel tree from Debian's package, and an initramfs of our own.

One rule: nothing is installed and nothing lands in the repository. The kernel comes from apt's
``linux-image-amd64``, whatever version that names today, is unpacked once with ``dpkg -x`` and
kept under the cache directory (``PRATIMA_CACHE``, else ``XDG_CACHE_HOME/pratima-iscsi``).
"""

import functools
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

META_PACKAGE: Final = "linux-image-amd64"
"""Depends on the kernel of the day; it is asked for that name and never unpacked itself."""
APT_SECONDS_MAX: Final = 300.0
BUSYBOX: Final = Path("/usr/bin/busybox"), Path("/bin/busybox")
DYNAMIC_LOADER: Final = b"/ld-linux"
"""A program whose first page names this needs more than itself, which an initramfs has not."""
BOOT_MODULES: Final = (
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "overlay",
)
"""What must be loaded before the host's file system, and with it modprobe, can be seen."""
EARLY_INIT: Final = Path(__file__).parent / "guest" / "early-init.sh"


class LabUnavailable(Exception):
    """This machine cannot build or boot the lab; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package: ``tree`` holds ``boot/`` and ``lib/modules/``."""

    release: str
    """As ``uname -r`` gives it, such as ``6.1.0-56-amd64``."""
    tree: Path

    @property
    def vmlinuz(self) -> Path:
        """The kernel that QEMU loads."""
        return self.tree / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """The directory that the guest sees as ``/lib/modules/RELEASE``."""
        return self.tree / "lib" / "modules" / self.release

    @property
    def initramfs(self) -> Path:
        """Our own initramfs for this kernel."""
        return self.tree / "boot" / "lab-initramfs"


def cache_directory() -> Path:
    """Where kernel trees are kept between runs."""
    if own := os.environ.get("PRATIMA_CACHE"):
        return Path(own) / "kernels"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pratima-iscsi" / "kernels"


@functools.cache
def kernel() -> Kernel:
    """The kernel that apt names today, unpacked, with its initramfs beside it.

    Where apt does not answer (no lists, no network) the newest tree in the cache serves.
    Raises :class:`LabUnavailable` when there is neither.
    """
    cache = cache_directory()
    try:
        tree = _fetched(cache)
    except (OSError, subprocess.SubprocessError) as error:
        trees = sorted(cache.glob("linux-image-*"), key=lambda path: path.stat().st_mtime)
        if not trees:
            raise LabUnavailable(
                f"no kernel: {META_PACKAGE} cannot be fetched ({error}) and none is in {cache}; "
                "try: apt-get update"
            ) from error
        tree = trees[-1]
    (modules,) = (tree / "lib" / "modules").iterdir()
    found = Kernel(release=modules.name, tree=tree)
    _build_initramfs(found)
    return found


def _fetched(cache: Path) -> Path:
    """The tree of the kernel of the day; root renews apt's lists once when they do not serve."""
    try:
        return _tree_of_the_day(cache)
    except (OSError, subprocess.SubprocessError):
        if os.geteuid() != 0:
            raise
        _run("apt-get", "-qq", "update")
        return _tree_of_the_day(cache)


def _tree_of_the_day(cache: Path) -> Path:
    package, version = _kernel_of_the_day()
    tree = cache / f"{package}_{version}"
    if not tree.is_dir():
        _unpack(package, tree)
    return tree


def _run(*command: str, cwd: Path | None = None) -> str:
    """Run a short tool and give back its output."""
    return subprocess.run(
        command, cwd=cwd, check=True, text=True, capture_output=True, timeout=APT_SECONDS_MAX
    ).stdout


def _kernel_of_the_day() -> tuple[str, str]:
    """The name and version of the package behind the meta package."""
    depends = _run("apt-cache", "depends", META_PACKAGE)
    name = re.search(r"Depends: (linux-image-\S+)", depends)
    if name is None:
        raise OSError(f"apt knows no {META_PACKAGE}")
    shown = _run("apt-cache", "show", "--no-all-versions", name[1])
    version = re.search(r"^Version: (\S+)$", shown, re.MULTILINE)
    if version is None:
        raise OSError(f"apt names no version of {name[1]}")
    return name[1], version[1]


def _unpack(package: str, tree: Path) -> None:
    """Download, unpack and index one kernel package; ``tree`` appears whole or not at all."""
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix="unpacking-") as scratch:
        _run("apt-get", "download", package, cwd=Path(scratch))
        (archive,) = Path(scratch).glob("*.deb")
        root = Path(scratch) / "root"
        _run("dpkg", "-x", str(archive), str(root))
        (modules,) = (root / "lib" / "modules").iterdir()
        _run("depmod", "-b", str(root), modules.name)
        _appear(root, tree)


def _appear(built: Path, place: Path) -> None:
    """Rename into place; whoever built the same thing first has won, and that is as good."""
    try:
        built.rename(place)
    except OSError:
        if not place.exists():
            raise


def _load_order(kernel: Kernel) -> Iterator[Path]:
    """The files of BOOT_MODULES and all they depend on, each after what it needs."""
    needs: dict[str, tuple[str, list[str]]] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        # The right-hand side lists the nearest need first and what that needs after it.
        needs[Path(path).name.split(".")[0]] = (path, rest.split()[::-1])
    seen: set[str] = set()
    for name in BOOT_MODULES:
        if name not in needs:  # built into this kernel
            continue
        path, before = needs[name]
        for relative in (*before, path):
            if relative not in seen:
                seen.add(relative)
                yield kernel.modules / relative


def _build_initramfs(kernel: Kernel) -> None:
    """busybox, a handful of modules and the early init, packed with cpio. Takes a moment."""
    busybox = next((path for path in BUSYBOX if path.exists()), None)
    if busybox is None or DYNAMIC_LOADER in busybox.read_bytes()[:4096]:
        raise LabUnavailable("no static busybox; try: apt-get install busybox-static")
    with tempfile.TemporaryDirectory(dir=kernel.tree.parent, prefix="initramfs-") as scratch:
        root = Path(scratch) / "root"
        for directory in ("bin", "dev", "proc", "sys", "modules", "lower", "upper", "new"):
            (root / directory).mkdir(parents=True)
        shutil.copy(busybox, root / "bin" / "busybox")
        shutil.copy(EARLY_INIT, root / "init")
        (root / "init").chmod(0o755)
        for number, module in enumerate(_load_order(kernel)):
            content = module.read_bytes()
            if module.suffix == ".xz":
                content = lzma.decompress(content)
            (root / "modules" / f"{number:02}-{module.name.removesuffix('.xz')}").write_bytes(
                content
            )
        packed = Path(scratch) / "initramfs"
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        with packed.open("wb") as output:
            subprocess.run(
                ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
                cwd=root,
                input=names.encode(),
                stdout=output,
                check=True,
                timeout=APT_SECONDS_MAX,
            )
        packed.replace(kernel.initramfs)
