"""Shared fixtures: a stage that runs in an empty folder, and the switch that keeps tests off the tracking store."""

from __future__ import annotations

import os

os.environ.setdefault("WEBDISTILL_TRACKING", "off")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
