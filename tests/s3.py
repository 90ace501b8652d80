"""The part of S3 that `pyarrow.fs` uses, over a dictionary: no renames, no folders."""

import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

Objects = dict[str, bytes]
"""Objects by `/bucket/key`."""
CLIENT = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
}
"""Environment variables that a client needs."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    objects: Objects
    uploads: dict[str, dict[int, bytes]]
    put_seconds: float

    def log_message(self, *arguments):
        """Print nothing."""

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path)

    @property
    def query(self) -> dict[str, str]:
        return {
            name: values[0]
            for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()
        }

    def answer(self, status: int, body: bytes = b"", **headers: str):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def xml(self, body: str):
        self.answer(200, f'<?xml version="1.0"?>{body}'.encode(), Content_Type="application/xml")

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def do_PUT(self):
        data = self.body()
        time.sleep(self.put_seconds)
        if "uploadId" in self.query:
            self.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = data
        else:
            self.objects[self.key] = data
        self.answer(200, ETag='"0"')

    def do_POST(self):
        body = self.body().decode()
        if "delete" in self.query:
            bucket = self.key.rstrip("/")
            for name in re.findall("<Key>(.*?)</Key>", body):
                self.objects.pop(f"{bucket}/{unescape(name)}", None)
            self.xml("<DeleteResult></DeleteResult>")
        elif "uploads" in self.query:
            upload = uuid.uuid4().hex
            self.uploads[upload] = {}
            self.xml(
                "<InitiateMultipartUploadResult>"
                f"<UploadId>{upload}</UploadId>"
                "</InitiateMultipartUploadResult>"
            )
        else:
            parts = self.uploads.pop(self.query["uploadId"])
            self.objects[self.key] = b"".join(parts[number] for number in sorted(parts))
            self.xml(
                "<CompleteMultipartUploadResult><ETag>0</ETag></CompleteMultipartUploadResult>"
            )

    def do_GET(self):
        if "list-type" in self.query:
            return self.list()
        if self.key not in self.objects:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        data = self.objects[self.key]
        if span := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            return self.answer(206, data[int(span[1]) : int(span[2]) + 1])
        return self.answer(200, data, ETag='"0"')

    def do_HEAD(self):
        self.do_GET()

    def do_DELETE(self):
        self.objects.pop(self.key, None)
        self.answer(204)

    def list(self):
        root, prefix, delimiter = (
            f"{self.key.rstrip('/')}/",
            self.query.get("prefix", ""),
            self.query.get("delimiter"),
        )
        keys = [
            key.removeprefix(root) for key in sorted(self.objects) if key.startswith(root + prefix)
        ]
        deep = {
            prefix + key[len(prefix) :].split("/")[0] + "/"
            for key in keys
            if delimiter and "/" in key[len(prefix) :]
        }
        flat = [key for key in keys if not delimiter or "/" not in key[len(prefix) :]]
        contents = [
            f"<Contents><Key>{escape(key)}</Key>"
            f"<Size>{len(self.objects[root + key])}</Size></Contents>"
            for key in flat
        ]
        prefixes = [
            f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
            for key in sorted(deep)
        ]
        counted = f"<KeyCount>{len(flat) + len(deep)}</KeyCount><IsTruncated>false</IsTruncated>"
        self.xml(f"<ListBucketResult>{counted}{''.join(contents + prefixes)}</ListBucketResult>")


@contextmanager
def s3_server(
    listener: socket.socket | None = None, put_seconds: float = 0.0
) -> Iterator[tuple[str, Objects]]:
    """The query of URIs that reach a server, and the objects of the server.

    By default it listens on this machine only. Each upload takes at least `put_seconds`.
    """
    objects: Objects = {}
    own = {"objects": objects, "uploads": {}, "put_seconds": put_seconds}
    handler = type("Server", (Handler,), own)
    listener = listener or socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    with ThreadingHTTPServer((host, port), handler, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = listener
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"endpoint_override={host}:{port}&scheme=http&region=us-east-1", objects
        server.shutdown()
