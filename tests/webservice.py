"""A destination on the web: a STOW-RS service that stores, refuses, warns, breaks off, is slow or talks nonsense."""

from __future__ import annotations

import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pydicom


class WebService:
    """Stores what it is sent, as `answer` wants.

    Attributes
    ----------
    requests : (path, headers) of each; got : SOP Instance UID → the bytes of the last part that had it, in the order they came
    refused, warned : SOP Instance UID → Failure or Warning Reason
    answer : None, or a status to answer everything with; body : None, or bytes to answer instead of what PS3.18 says
    """

    def __init__(self, certificate=None):
        self.requests, self.got, self.refused, self.warned = [], {}, {}, {}
        self.answer = self.body = None
        self.cut_off = False
        self.hold = None
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                service.take(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server.server_port}/dicom-web"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def take(self, handler):
        self.requests.append((handler.path, dict(handler.headers)))
        if self.cut_off:
            handler.connection.close()
            handler.close_connection = True
            return
        data = handler.rfile.read(int(handler.headers["Content-Length"]))
        if self.hold is not None:
            self.hold.wait(20)
        status, body = (self.answer, b"") if self.answer else self.store(parts_of(data, handler.headers["Content-Type"]))
        body = body if self.body is None else self.body
        handler.send_response(status)
        if status == 302:
            handler.send_header("Location", "/elsewhere")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def store(self, parts):
        stored, failed = [], []
        for data in parts:
            dataset = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
            uid = str(dataset.SOPInstanceUID)
            item = {"00081150": _ui(dataset.SOPClassUID), "00081155": _ui(uid)}
            if uid in self.refused:
                failed.append(item | {"00081197": {"vr": "US", "Value": [self.refused[uid]]}})
                continue
            self.got.pop(uid, None)
            self.got[uid] = data
            stored.append(item | ({"00081196": {"vr": "US", "Value": [self.warned[uid]]}} if uid in self.warned else {}))
        answer = {tag: {"vr": "SQ", "Value": items} for tag, items in (("00081199", stored), ("00081198", failed)) if items}
        return (409 if not stored else 202 if failed else 200), json.dumps(answer).encode()


def parts_of(data, content_type):
    """The bytes of each part of a multipart/related body, to the letter (PS3.18 8.6.1.2)."""
    boundary = content_type.rpartition("boundary=")[2].encode()
    assert content_type.startswith('multipart/related; type="application/dicom";')
    pieces = (b"\r\n" + data).split(b"\r\n--" + boundary)
    assert (pieces[0], pieces[-1]) == (b"", b"--\r\n")
    head = b"\r\nContent-Type: application/dicom\r\n\r\n"
    assert all(piece.startswith(head) for piece in pieces[1:-1])
    return [piece[len(head) :] for piece in pieces[1:-1]]


def _ui(uid):
    return {"vr": "UI", "Value": [str(uid)]}


@contextmanager
def webservice(**arguments):
    one = WebService(**arguments)
    try:
        yield one
    finally:
        one.server.shutdown()
        one.server.server_close()
