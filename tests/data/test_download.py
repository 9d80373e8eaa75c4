import dataclasses
import hashlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
import urllib3

from triptych.data import SOURCES, fetch, load, verify
from triptych.data.download import cache_folder
from triptych.errors import UserError


class Mirror(BaseHTTPRequestHandler):
    """Serves archives by name, faultlessly or with one fault; logs what it was asked for."""

    def __init__(self, archives, fault, log, *args):
        self.archives, self.fault, self.log = archives, fault, log
        super().__init__(*args)

    def do_GET(self):
        self.log.append(self.path)
        content = self.archives.get(self.path.rpartition("/")[2].removesuffix(".gz"))
        if content is None or self.fault == "404":
            return self.send_error(404)
        if self.fault == "corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.fault == "interrupted" else content)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def serve(tiny, monkeypatch) -> Iterator[Callable]:
    """serve(fault) starts a mirror on loopback: its address and its log of requests."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    archives = {name: tiny.packed(name) for name in tiny.names}
    servers = []

    def start(fault: str | None = None) -> tuple[str, list[str]]:
        log: list[str] = []
        handler = partial(Mirror, archives, fault, log)
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        # Polled often, because shutdown waits for the next poll.
        threading.Thread(target=partial(servers[-1].serve_forever, 0.01), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/mirror", log

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def dead_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def files_in(folder) -> dict[str, str]:
    return {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def complete(tiny) -> dict[str, str]:
    return {f"{file.name}.gz": file.md5 for file in tiny.source.files}


def test_the_files_arrive_with_a_progress_bar(tiny, serve, tmp_path, capsys):
    address, log = serve()
    folder = fetch("mnist", [address], tmp_path)
    assert folder == tmp_path / "mnist"
    assert files_in(folder) == complete(tiny)
    assert log == [f"/mirror/{name}.gz" for name in tiny.names]
    assert "100%" in capsys.readouterr().err
    assert load("mnist", folder).name == "mnist"


def test_a_cache_that_several_users_share_can_be_read_by_all(tiny, serve, tmp_path):
    mirror, _ = serve()
    folder = fetch("mnist", [mirror], tmp_path)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def test_a_second_time_nothing_is_asked_for(tiny, serve, tmp_path):
    address, log = serve()
    first = fetch("mnist", [address], tmp_path)
    log.clear()
    assert fetch("mnist", [address], tmp_path) == first
    assert log == []
    assert fetch("mnist", [dead_address()], tmp_path) == first


def test_a_damaged_file_in_the_cache_is_replaced(tiny, serve, tmp_path):
    address, log = serve()
    folder = fetch("mnist", [address], tmp_path)
    log.clear()
    name = f"{tiny.names[2]}.gz"
    (folder / name).write_bytes(b"damaged")
    fetch("mnist", [address], tmp_path)
    assert log == [f"/mirror/{name}"]
    assert files_in(folder) == complete(tiny)


@pytest.mark.parametrize("fault", ["404", "corrupt", "interrupted"])
def test_the_second_mirror_stands_in(tiny, serve, tmp_path, fault):
    (bad, asked), (good, _) = serve(fault), serve()
    assert files_in(fetch("mnist", [bad, good], tmp_path)) == complete(tiny)
    # Not asked again for the other three files.
    assert len(asked) == 1


def test_a_mirror_that_refuses_connections_is_passed_over(tiny, serve, tmp_path):
    good, _ = serve()
    assert files_in(fetch("mnist", [dead_address(), good], tmp_path)) == complete(tiny)


def test_a_file_that_only_the_failed_mirror_has_is_still_found(tiny, serve, tmp_path):
    # The second mirror has the first file only, the first mirror all the others.
    (one, _), (two, _) = serve(), serve()
    real_get = requests.get

    def get(url, **options):
        first_file = f"{tiny.names[0]}.gz" in url
        return real_get(url if first_file == url.startswith(two) else f"{url}.missing", **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "get", get)
        assert files_in(fetch("mnist", [one, two], tmp_path)) == complete(tiny)


# Whether all has come that was announced, urllib3 sees from its second version on.
CUT = "broken off" if urllib3.__version__ >= "2" else "wrong md5"


@pytest.mark.parametrize(
    ("fault", "words"),
    [("404", "HTTP 404"), ("corrupt", "wrong md5"), ("interrupted", CUT)],
)
def test_when_all_fail_one_sentence_tells_why(tiny, serve, tmp_path, fault, words):
    (bad, _), dead = serve(fault), dead_address()
    with pytest.raises(UserError) as caught:
        fetch("mnist", [bad, dead], tmp_path)
    message = str(caught.value)
    for part in (tiny.names[0], f"{bad} (", words, f"{dead} (no connection)", "--data"):
        assert part in message
    assert "\n" not in message
    assert files_in(tmp_path / "mnist") == {}


def test_ctrl_c_leaves_nothing_half_written(tiny, serve, tmp_path, monkeypatch):
    address, _ = serve()

    def interrupted(response, chunk_size):
        yield response.raw.read(10)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(requests.Response, "iter_content", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("mnist", [address], tmp_path)
    assert files_in(tmp_path / "mnist") == {}
    assert files_in(fetch("mnist", [address], tmp_path)) == complete(tiny)


def test_a_cache_that_cannot_be_written_is_named(tiny, serve, tmp_path):
    address, _ = serve()
    (tmp_path / "mnist").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be written.*XDG_CACHE_HOME.*--data"):
        fetch("mnist", [address], tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="XDG folders are a Linux custom")
def test_load_fetches_into_the_platforms_cache_and_verify_does_not(
    tiny, serve, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    address, _ = serve()
    source = dataclasses.replace(tiny.source, mirrors=(address,))
    monkeypatch.setitem(SOURCES, "mnist", source)
    with pytest.raises(UserError, match="triptych data fetch mnist"):
        verify("mnist")
    assert not cache_folder("mnist").exists()
    assert load("mnist").name == "mnist"
    assert cache_folder("mnist") == tmp_path / "triptych" / "mnist"
    assert len(verify("mnist")) == 4


def test_embedded_data_are_not_downloaded():
    assert (fetch("digits", [dead_address()]) / "digits.csv.gz").is_file()


def test_unknown_names_are_told_the_known_ones():
    with pytest.raises(UserError, match="digits, mnist, fashion, kmnist"):
        fetch("cifar")
