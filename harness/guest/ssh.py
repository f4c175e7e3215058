# SPDX-License-Identifier: GPL-2.0-only
"""Owns SSH into a guest: for files and a shell, never for what is measured. Keys are made for each connection."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import time
from collections.abc import Iterator

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.guest.guest import Guest
from harness.machine.deadline import Deadline
from harness.records import GuestError

CONNECT_SECONDS = 20.0


def _free_port() -> int:
    """A loopback port that nobody listens on now; QEMU's hostfwd cannot choose one itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _key() -> tuple[paramiko.Ed25519Key, str]:
    """A new key pair: ours, and its line for authorized_keys."""
    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(text))
    return key, f"ssh-ed25519 {base64.b64encode(key.asbytes()).decode()}"


@contextlib.contextmanager
def connect(guest: Guest) -> Iterator[paramiko.SSHClient]:
    """A connection as root; the port is forwarded on loopback for the block only.

    Raises GuestError when the guest's SSH server does not answer within its deadline.
    """
    key, line = _key()
    guest.agent.call("write", path="/root/authorized_keys", data=line + "\n", mode="600", record=False)
    argv = ["/sbin/dropbear", "-F", "-E", "-R", "-s", "-D", "/root", "-p", "22"]
    arguments = {f"a{i}": word for i, word in enumerate(argv)}
    guest.agent.call("spawn", record=False, name="sshd", out="/tmp/dropbear.log", **arguments)  # type: ignore[arg-type]
    port = _free_port()
    guest.vm.monitor(f"hostfwd_add net tcp:127.0.0.1:{port}-:22")
    client = paramiko.SSHClient()
    # The host key was made a moment ago in a guest that only we can reach.
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    try:
        _open(client, port, key, Deadline(CONNECT_SECONDS * guest.pristine.scale, "the guest's SSH server"), guest)
        yield client
    finally:
        client.close()
        guest.vm.monitor(f"hostfwd_remove net tcp:127.0.0.1:{port}")
        guest.agent.call("kill", check=False, record=False, name="sshd")


def _open(
    client: paramiko.SSHClient, port: int, key: paramiko.Ed25519Key, deadline: Deadline, guest: Guest
) -> None:
    """Connects, again and again until the server listens: QEMU accepts before the guest does."""
    while True:
        try:
            client.connect(
                "127.0.0.1", port=port, username="root", pkey=key, allow_agent=False, look_for_keys=False,
                timeout=deadline.left, banner_timeout=deadline.left, auth_timeout=deadline.left,
            )  # fmt: skip
            return
        except (paramiko.SSHException, OSError, EOFError) as error:
            if deadline.expired:
                log = guest.read("/tmp/dropbear.log")
                raise GuestError(f"{deadline}: {error}", detail=log) from error
            time.sleep(0.05)
