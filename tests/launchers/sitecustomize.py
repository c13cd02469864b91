"""Debian builds torch without libuv, and torch asks for it: every TCPStore, of the launcher and of the workers, is told not to."""

from torch._C._distributed_c10d import TCPStore

_create = TCPStore.__init__


def _create_without_libuv(self, *values, **named):
    named["use_libuv"] = False
    _create(self, *values, **named)


TCPStore.__init__ = _create_without_libuv
