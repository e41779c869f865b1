"""A bucket in this process, for tests: an emulator of Google Cloud Storage."""

import contextlib
import logging
import socket
import socketserver

import pytest


@contextlib.contextmanager
def emulated_bucket():
    """Takes the place of Google's servers; there is an empty gs://bucket."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    address = f"http://localhost:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        patch.setenv("GOOGLE_CLOUD_PROJECT", "test")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        from gcp_storage_emulator import server

        # A client need not wait for the end of an answer.
        patch.setattr(socketserver.BaseServer, "handle_error", lambda *_: None)
        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        made = server.create_server(
            "localhost", port, in_memory=True, default_bucket="bucket"
        )
        with made:
            yield
