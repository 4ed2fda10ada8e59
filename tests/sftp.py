"""An SFTP server on this machine, for a folder."""

import os
import socket
import threading
from contextlib import contextmanager, suppress

import paramiko


class _Login(paramiko.ServerInterface):
    def check_auth_password(self, username, password):
        right = (username, password) == ("me", "pa55w0rd")
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def get_allowed_auths(self, _username):
        return "password"

    def check_channel_request(self, _kind, _number):
        return paramiko.OPEN_SUCCEEDED


class _Files(paramiko.SFTPServerInterface):
    root = ""

    def _at(self, path):
        return self.root + self.canonicalize(path)

    def list_folder(self, path):
        return [self._attributes(os.path.join(self._at(path), name), name) for name in os.listdir(self._at(path))]  # noqa: PTH118, PTH208

    def _attributes(self, path, name=None):
        try:
            return paramiko.SFTPAttributes.from_stat(os.stat(path), name)  # noqa: PTH116
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def stat(self, path):
        return self._attributes(self._at(path))

    lstat = stat

    def open(self, path, flags, attr):
        try:
            handle = paramiko.SFTPHandle(flags)
            handle.readfile = open(self._at(path), "rb")  # noqa: PTH123, SIM115 - paramiko closes it
            handle.stat = lambda: self.stat(path)
            return handle
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)


@contextmanager
def sftp_server(folder):
    """Serve a folder; gives host and port."""
    _Files.root = str(folder)
    key = paramiko.ECDSAKey.generate()
    listening = socket.create_server(("127.0.0.1", 0))
    transports = []

    def accept():
        with suppress(OSError):
            while True:
                transport = paramiko.Transport(listening.accept()[0])
                transport.add_server_key(key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files)
                transports.append(transport)
                with suppress(Exception):
                    transport.start_server(server=_Login())

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for transport in transports:
            transport.close()
        thread.join(5)
