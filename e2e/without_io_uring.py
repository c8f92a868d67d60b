#!/usr/bin/python3
"""Runs a program with io_uring forbidden, as containerd's default seccomp profile forbids it: its three calls fail with EPERM.

    without_io_uring.py PROGRAM ARGUMENT...

What it starts, and what that starts, cannot get rid of it. Needs no privileges; x86-64 and arm64, which have the same numbers.
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RETURN_ERRNO, RETURN_ALLOW = 0x00050000, 0x7FFF0000
# io_uring_setup, io_uring_enter, io_uring_register
FIRST, LAST = 425, 427


def instruction(code, if_true, if_false, value):
    """A struct sock_filter (linux/filter.h)."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


PROGRAM = b"".join(
    [
        instruction(0x20, 0, 0, 0),  # load seccomp_data.nr
        instruction(0x35, 0, 2, FIRST),  # if nr >= FIRST
        instruction(0x25, 1, 0, LAST),  # and not nr > LAST
        instruction(0x06, 0, 0, RETURN_ERRNO | errno.EPERM),
        instruction(0x06, 0, 0, RETURN_ALLOW),
    ]
)


def main():
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(PROGRAM, len(PROGRAM))
    # struct sock_fprog: how many instructions, and where
    program = struct.pack("@HP", len(PROGRAM) // 8, ctypes.addressof(code))
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)):
        if libc.prctl(*call) != 0:
            sys.exit(f"prctl({call[0]}): {os.strerror(ctypes.get_errno())}")
    # It must be in force, or what is tested behind it tests nothing.
    if libc.syscall(FIRST, 1, None) != -1 or ctypes.get_errno() != errno.EPERM:
        sys.exit("io_uring is not forbidden in spite of the filter")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
