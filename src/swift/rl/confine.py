"""Run as a program: gives up every right that code of a model should not have, then runs it.

    python -I confine.py '{"memory_bytes": ..., "folder": ..., ...}'

Standard library only, and nothing of swift: it starts in milliseconds. What is given up stays so
over ``exec``; see sandbox.py for what it means.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import struct
import sys
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

# audit architecture, then the numbers of system calls (linux/audit.h, asm/unistd_64.h)
_ARCHITECTURES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "socketpair": 53, "fork": 57, "vfork": 58, "clone": 56, "clone3": 435,
            "kill": 62, "tkill": 200, "tgkill": 234, "pidfd_send_signal": 424, "pidfd_open": 434,
            "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "ptrace": 101, "mount": 165,
            "umount2": 166, "unshare": 272, "setns": 308, "bpf": 321, "keyctl": 250,
            "process_vm_readv": 310, "process_vm_writev": 311, "io_uring_setup": 425,
            "userfaultfd": 323, "perf_event_open": 298, "prlimit64": 302,
            # of files outside, which Landlock leaves to their owner
            "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92,
            "fchown": 93, "lchown": 94, "fchownat": 260, "utime": 132, "utimes": 235,
            "futimesat": 261, "utimensat": 280, "setxattr": 188, "lsetxattr": 189,
            "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199,
            "setxattrat": 463, "removexattrat": 466,
            # of the machine, where a container's root may do them
            "reboot": 169, "kexec_load": 246, "init_module": 175, "finit_module": 313,
            "delete_module": 176, "chroot": 161, "clock_settime": 227, "settimeofday": 164,
            "sethostname": 170, "swapon": 167,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "socketpair": 199, "clone": 220, "clone3": 435, "kill": 129,
            "tkill": 130, "tgkill": 131, "pidfd_send_signal": 424, "pidfd_open": 434,
            "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "ptrace": 117, "mount": 40,
            "umount2": 39, "unshare": 97, "setns": 268, "bpf": 280, "keyctl": 219,
            "process_vm_readv": 270, "process_vm_writev": 271, "io_uring_setup": 425,
            "userfaultfd": 282, "perf_event_open": 241, "prlimit64": 261,
            "fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchown": 55, "fchownat": 54,
            "utimensat": 88, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14,
            "lremovexattr": 15, "fremovexattr": 16, "setxattrat": 463, "removexattrat": 466,
            "reboot": 142, "kexec_load": 104, "init_module": 105, "finit_module": 273,
            "delete_module": 106, "chroot": 51, "clock_settime": 112, "settimeofday": 170,
            "sethostname": 161, "swapon": 224,
        },
    ),
}  # fmt: skip
_EPERM, _ENOSYS = 1, 38
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_CLONE_THREAD = 0x00010000
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # of classic BPF
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16  # offsets in seccomp_data

_READING = 0b1101  # of Landlock: execute, read a file, read a folder
_OF_FILES = 0b100000000000111  # execute, write, read, truncate
_KNOWN = {1: 0x1FFF, 2: 0x3FFF}  # rights that a version knows; later ones also to truncate


def _jump(code: int, value: int, yes: int, no: int) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def _answer(value: int) -> bytes:
    return struct.pack("HBBI", _RETURN, 0, 0, value)


def _filter(arch: int, calls: dict[str, int], pid: int) -> bytes:
    """A seccomp program: no sockets, no processes, no signals to others, no ways around.

    Threads are allowed, and signals to this very process. A number of another architecture (the
    32-bit calls of x86) ends the process.
    """
    refuse = _answer(_ERRNO | _EPERM)
    program = [
        _jump(_LOAD, _ARCH, 0, 0),
        _jump(_EQUAL, arch, 1, 0),
        _answer(_KILL),
        _jump(_LOAD, _NUMBER, 0, 0),
        _jump(0x35, 0x40000000, 0, 1),  # x32 calls
        _answer(_KILL),
    ]
    special = {"clone", "clone3", "tgkill", "kill", "prlimit64"}
    for number in (calls[name] for name in calls if name not in special):
        program += [_jump(_EQUAL, number, 0, 1), refuse]
    # without clone3, libraries make threads by clone, whose flags can be seen
    program += [_jump(_EQUAL, calls["clone3"], 0, 1), _answer(_ERRNO | _ENOSYS)]
    program += [
        _jump(_EQUAL, calls["clone"], 0, 4),
        _jump(_LOAD, _ARGUMENT, 0, 0),
        _jump(_ANY_BIT, _CLONE_THREAD, 1, 0),
        refuse,
        _answer(_ALLOW),
    ]
    for name in ("kill", "tgkill"):  # to itself only
        program += [
            _jump(_EQUAL, calls[name], 0, 4),
            _jump(_LOAD, _ARGUMENT, 0, 0),
            _jump(_EQUAL, pid, 1, 0),
            refuse,
            _answer(_ALLOW),
        ]
    program += [  # limits of itself, whose hard bounds hold
        _jump(_EQUAL, calls["prlimit64"], 0, 4),
        _jump(_LOAD, _ARGUMENT, 0, 0),
        _jump(_EQUAL, 0, 1, 0),
        refuse,
        _answer(_ALLOW),
    ]
    return b"".join([*program, _answer(_ALLOW)])


def close_calls() -> bool:
    """Install the filter; whether it holds."""
    known = _ARCHITECTURES.get(platform.machine())
    if known is None or _LIBC.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        return False
    code = _filter(*known, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    return _LIBC.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0  # PR_SET_SECCOMP, a filter


def close_files(folder: str, readable: list[str]) -> bool:
    """Landlock: only ``folder`` can be written, only it and ``readable`` can be read."""
    version = _LIBC.syscall(444, None, 0, 1)
    if version < 1:
        return False
    handled = _KNOWN.get(version, 0x7FFF)
    _LIBC.prctl(38, 1, 0, 0, 0)
    rules = ctypes.c_uint64(handled)
    descriptor = _LIBC.syscall(444, ctypes.byref(rules), 8, 0)
    if descriptor < 0:
        return False
    for path, rights in [(folder, handled), *((p, handled & _READING) for p in readable)]:
        _allow(descriptor, path, rights)
    held = _LIBC.syscall(446, descriptor, 0) == 0
    os.close(descriptor)
    return held


def _allow(ruleset: int, path: str, rights: int) -> None:
    if not os.path.exists(path):
        return
    if not os.path.isdir(path):
        rights &= _OF_FILES
    place = os.open(path, os.O_PATH)
    rule = struct.pack("=Qi", rights, place)
    _LIBC.syscall(445, ruleset, 1, ctypes.c_char_p(rule), 0)
    os.close(place)


def close_network() -> bool:
    """A network namespace of its own, without any device; whether the kernel gives one."""
    return _LIBC.unshare(0x10000000 | 0x40000000 | 0x08000000) == 0  # user, network, IPC


def limit(settings: dict[str, Any]) -> None:
    """Bounds that the kernel keeps: memory, time of the processor, sizes and numbers."""
    bounds = {
        resource.RLIMIT_AS: settings["memory_bytes"],
        resource.RLIMIT_CPU: settings["cpu_s"],
        resource.RLIMIT_FSIZE: settings["file_bytes"],
        resource.RLIMIT_NOFILE: settings["files"],
        resource.RLIMIT_CORE: 0,
    }
    for which, most in bounds.items():
        resource.setrlimit(which, (most, most))


def main() -> None:
    """Close everything, say what holds, become the program."""
    settings = json.loads(sys.argv[1])
    os.chdir(settings["folder"])
    held = {
        "namespace": close_network(),
        "landlock": close_files(settings["folder"], settings["readable"]),
        "seccomp": close_calls(),
    }
    os.write(settings["report"], json.dumps(held).encode())
    os.close(settings["report"])
    if not (held["seccomp"] and held["landlock"]):
        os._exit(3)
    limit(settings)
    os.execve(sys.executable, [sys.executable, "-I", "-B", *settings["arguments"]], {})


if __name__ == "__main__":
    main()
