# SPDX-License-Identifier: GPL-2.0-only
"""SSH into a guest: for files and a shell, never for measurements. Keys are made for each connection."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
from collections.abc import Iterator
from typing import Protocol

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.core.errors import GuestError
from harness.guest.agent import Agent
from harness.machine import written
from harness.machine.deadline import Deadline
from harness.machine.qemu import SSH_PORT
from harness.machine.vm import Vm

CONNECT_SECONDS = 20.0
LOG = "/tmp/dropbear.log"
SERVER = "sshd"
"""The agent's name of the SSH server's process."""


def _key() -> tuple[paramiko.Ed25519Key, str]:
    """A new key pair: ours, and its line for authorized_keys."""
    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(text))
    return key, f"ssh-ed25519 {base64.b64encode(key.asbytes()).decode()}"


class Reachable(Protocol):
    """A running machine and the connection to its agent: a restored guest, or one that was booted."""

    vm: Vm
    agent: Agent


@contextlib.contextmanager
def connect(guest: Reachable, *, tidy: bool = True) -> Iterator[paramiko.SSHClient]:
    """A connection as root, over a virtio-serial port: the guest has no network.

    With `tidy` the server is ended after the block. Raises GuestError when the guest's SSH server does not answer
    within its deadline.
    """
    key, line = _key()
    guest.agent.call("write", path="/root/authorized_keys", data=line + "\n", mode="600", record=False)
    client = paramiko.SSHClient()
    try:
        channel = written.connect(guest.vm.sockets.ssh)  # before the server opens it, or it would see a closed port
    except (ConnectionError, FileNotFoundError) as error:
        raise guest.vm.gone("connecting to the SSH server") from error
    # The host key was just made, in a guest that only we can reach.
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    try:
        server = ["/sbin/dropbear", "-i", "-E", "-R", "-s", "-D", "/root"]
        argv = ["/bin/agent", "relay", f"/dev/{SSH_PORT}", *server]
        arguments = {f"a{i}": word for i, word in enumerate(argv)}
        guest.agent.call("spawn", record=False, name=SERVER, out=LOG, **arguments)  # type: ignore[arg-type]
        _open(client, channel, key, Deadline(CONNECT_SECONDS * guest.agent.scale, "the guest's SSH server"), guest)
        yield client
    finally:
        client.close()
        channel.close()
        if tidy:
            guest.agent.call("kill", check=False, record=False, name=SERVER)


def _open(
    client: paramiko.SSHClient, channel: socket.socket, key: paramiko.Ed25519Key, deadline: Deadline, guest: Reachable
) -> None:
    try:
        client.connect(
            "guest",
            username="root",
            pkey=key,
            sock=channel,
            allow_agent=False,
            look_for_keys=False,
            timeout=deadline.left,
            banner_timeout=deadline.left,
            auth_timeout=deadline.left,
        )
    except (paramiko.SSHException, OSError, EOFError) as error:
        log = guest.agent.call("read", check=False, record=False, path=LOG).get("data", "")
        raise GuestError(f"{deadline}: {error}", detail=str(log)) from error
