"""A bucket in this process, for tests: an emulator of Google Cloud Storage."""

import contextlib
import logging
import socket
import socketserver
from http import HTTPStatus

import pytest
from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects


def with_generations(objects):
    """Adds to the emulator what TensorStore relies on: generations, conditions."""
    download, upload = objects.download, objects._media_upload

    def generation(request, storage, name):
        try:
            found = storage.get_file_obj(request.params["bucket_name"], name)
        except NotFound:
            return "0"
        return found["generation"]

    def asked(request, key):
        return request.query.get(key, [None])[0]

    def download_if(request, response, storage):
        there = generation(request, storage, request.params["object_id"])
        if asked(request, "ifGenerationNotMatch") == there:
            response.status = HTTPStatus.NOT_MODIFIED
            return
        download(request, response, storage)
        response["x-goog-generation"] = there

    def upload_if(request, response, storage):
        there = generation(request, storage, request.query["name"][0])
        if asked(request, "ifGenerationMatch") in (None, there):
            upload(request, response, storage)
        else:
            response.status = HTTPStatus.PRECONDITION_FAILED

    return {"download": download_if, "_media_upload": upload_if}


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
        for name, handler in with_generations(objects).items():
            patch.setattr(objects, name, handler)
        # A client need not wait for the end of an answer.
        patch.setattr(socketserver.BaseServer, "handle_error", lambda *_: None)
        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        made = server.create_server(
            "localhost", port, in_memory=True, default_bucket="bucket"
        )
        with made:
            yield
