"""Contenders that a process of its own can import."""

import os

import torch


def forgetful(name, setting):
    """Holds 120 MB while it is built, and 80 MB in a step."""
    torch.ones(30_000_000).sum()
    return lambda: torch.ones(20_000_000).sum()


def killed(name, setting):
    """Ends its process, as the system does for want of memory."""
    os._exit(9)
