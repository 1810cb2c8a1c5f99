"""A visitor of the web app without a browser: uploads image files and waits for the answers.

Speaks the app's own protocol, so it needs Streamlit: run with the Python of the serving environment.
`_app_visitor.py PORT IMAGE...` prints the seconds from opening the page to its first drawing, and for the images.
"""

import json
import sys
import time
import urllib.request
from pathlib import Path

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

QUIET_SECONDS = 2.0
PATIENCE_SECONDS = 300.0


class Visit:
    """One session."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.session = ""
        self.uploader = ""
        self.elements = 0

    def rerun(self, message: BackMsg) -> float:
        """Send it and take in what comes until the app has nothing more to say; seconds to the last end of a run."""
        begin = last = time.perf_counter()
        self._connection.send(message.SerializeToString())
        is_done = False
        while True:
            try:
                received = self._connection.recv(timeout=QUIET_SECONDS if is_done else PATIENCE_SECONDS)
            except TimeoutError:
                if is_done:
                    return last - begin
                raise
            answer = ForwardMsg.FromString(received)
            kind = answer.WhichOneof("type")
            is_done = kind == "script_finished" or (is_done and kind != "new_session")
            if kind == "script_finished":
                last = time.perf_counter()
            self._note(answer)

    def ask_places(self, names: list[str]) -> list[tuple[str, str, str]]:
        """Id, upload address and delete address for each file."""
        message = BackMsg()
        message.file_urls_request.request_id = "files"
        message.file_urls_request.file_names.extend(names)
        message.file_urls_request.session_id = self.session
        self._connection.send(message.SerializeToString())
        while True:
            answer = ForwardMsg.FromString(self._connection.recv(timeout=PATIENCE_SECONDS))
            if answer.WhichOneof("type") == "file_urls_response":
                places = answer.file_urls_response.file_urls
                return [(place.file_id, place.upload_url, place.delete_url) for place in places]

    def _note(self, answer: ForwardMsg) -> None:
        if answer.WhichOneof("type") == "new_session":
            self.session = answer.new_session.initialize.session_id or self.session
        if answer.delta.WhichOneof("type") == "new_element":
            self.elements += 1
            element = answer.delta.new_element
            if element.WhichOneof("type") == "file_uploader":
                self.uploader = element.file_uploader.id


def main(port: int, images: list[Path]) -> None:
    address = f"127.0.0.1:{port}"
    with connect(
        f"ws://{address}/_stcore/stream", subprotocols=[Subprotocol("streamlit")], max_size=None
    ) as connection:
        visit = Visit(connection)
        first = BackMsg()
        first.rerun_script.query_string = ""
        seconds_to_page = visit.rerun(first)
        before = visit.elements
        upload = BackMsg()
        state = upload.rerun_script.widget_states.widgets.add(id=visit.uploader).file_uploader_state_value
        places = visit.ask_places([path.name for path in images])
        for path, (file_id, place, delete) in zip(images, places, strict=True):
            data = path.read_bytes()
            _send_file(f"http://{address}/{place.lstrip('/')}", path.name, data)
            info = state.uploaded_file_info.add(file_id=file_id, name=path.name, size=len(data))
            info.file_urls.file_id, info.file_urls.upload_url, info.file_urls.delete_url = file_id, place, delete
        seconds_for_images = visit.rerun(upload)
    if visit.elements == before:
        raise SystemExit("The app drew nothing after the upload.")
    print(json.dumps({"page": seconds_to_page, "images": seconds_for_images}))


def _send_file(address: str, name: str, data: bytes) -> None:
    mark = "----visitor"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = head.encode() + data + f"\r\n--{mark}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    urllib.request.urlopen(urllib.request.Request(address, body, headers, method="PUT"), timeout=30).close()


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
