"""ONNX Runtime is an extra: without it, there is nothing to test here."""

import pytest

pytest.importorskip("onnxruntime")
