"""Activations on disk and as batches: capture, store, loader, input scaling."""

from saelab.activations.capture import CaptureSpec, capture
from saelab.activations.inspection import info, verify
from saelab.activations.loader import Batch, Loader, stored
from saelab.activations.store import Store

__all__ = ["Batch", "CaptureSpec", "Loader", "Store", "capture", "info", "stored", "verify"]
