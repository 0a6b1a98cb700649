"""A small Hub on 127.0.0.1 for tests: repositories, large files, commits and downloads, and failures on demand.

The clients read HF_ENDPOINT when they are imported, so scripts talk to it as child processes with `hub.environment()`.
"""

import base64
import hashlib
import json
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

OWNER, TOKEN = "me", "hf_" + "Zq7" * 11
# A repository of somebody else that is there already.
STRANGER = "stranger/model"
LARGE = (".safetensors", ".bin", ".pt", ".pth", ".parquet", ".png")


class Repo:
    """Commits of one repository: (id, {path: bytes}, title), the newest last."""

    def __init__(self, name: str):
        self.name, self.commits = name, []
        self.add({".gitattributes": b""}, "initial commit")

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def add(self, files: dict[str, bytes], title: str) -> str:
        commit_id = hashlib.sha1(f"{self.name} {len(self.commits)}".encode()).hexdigest()
        self.commits.append((commit_id, files, title))
        return commit_id

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return (commit id, files) of a branch name or commit id."""
        return next((c[:2] for c in reversed(self.commits) if revision in ("main", c[0])), None)


class HubServer:
    """A context manager. `repos` is {"models/me/name": Repo}, `requests` a list of "METHOD path status"."""

    def __init__(self):
        self.repos = {f"models/{STRANGER}": Repo(STRANGER)}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._failures: list[list] = []
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Return the environment of a child process that uses this Hub, with caches in `home`."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")
        }
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            **({"HF_TOKEN": token} if token else {}),
        }

    def fail(self, pattern: str, how: int | str, times: int = 1) -> None:
        """Let the next requests whose "METHOD path" matches fail: by a status, "drop" or "drop after" the work."""
        self._failures.append([pattern, how, times])

    def recover(self) -> None:
        """Take back all failures that have not happened."""
        self._failures.clear()

    def next_failure(self, request: str) -> int | str | None:
        """Return how this request is to fail."""
        for failure in self._failures:
            if re.search(failure[0], request) and failure[2] > 0:
                failure[2] -= 1
                return failure[1]
        return None


_REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"


class _Dropped(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is two packets; otherwise each waits 40 ms for the client
    hub: HubServer
    ROUTES = (
        (r"/api/whoami-v2", "whoami"),
        (r"/api/repos/create", "create"),
        (r"/api/validate-yaml", "validate"),
        (r"/lfs/(?P<oid>\w+)", "store"),
        (r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        (r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
        (rf"{_REPO}/auth-check/write", "may_write"),
        (rf"{_REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
        (rf"{_REPO}/commit/(?P<revision>[^/]+)", "commit"),
        (rf"{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", "tree"),
        (rf"{_REPO}/paths-info/(?P<revision>[^/]+)", "paths_info"),
        (rf"{_REPO}(?:/revision/(?P<revision>[^/]+))?", "info"),
    )

    def log_message(self, *arguments) -> None:
        pass

    def handle_request(self) -> None:
        path = urlsplit(self.path).path
        self.body = self._read_body()
        how = self.hub.next_failure(f"{self.command} {path}")
        try:
            if how == "drop":
                raise _Dropped
            if isinstance(how, int):
                return self.answer({"error": "injected"}, how)
            self.quiet = how == "drop after"
            with self.hub.lock:
                for pattern, action in self.ROUTES:
                    if match := re.fullmatch(pattern, path):
                        found = {key: unquote(value) for key, value in match.groupdict().items() if value}
                        return getattr(self, action)(**found)
            self.refuse(404, "", f"no route {path}")
        except _Dropped:
            self.hub.requests.append(f"{self.command} {path} dropped")
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request
    quiet = False

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, body: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if self.quiet:
            raise _Dropped
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.hub.requests.append(f"{self.command} {urlsplit(self.path).path} {status}")
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.answer({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})

    def find(self, kind: str, name: str, revision: str = "main") -> tuple[Repo, str, dict[str, bytes]] | None:
        repo = self.hub.repos.get(f"{kind}/{name}")
        if repo is None:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        if (found := repo.at(revision)) is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, *found

    def is_owner(self, name: str) -> bool:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return bool(self.refuse(401, "", "Invalid credentials in Authorization header"))
        if name.split("/")[0] != OWNER:
            return bool(self.refuse(403, "", f"you may not write to {name}"))
        return True

    def whoami(self) -> None:
        if self.is_owner(OWNER):
            self.answer({"name": OWNER, "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self) -> None:
        wanted = json.loads(self.body)
        kind, name = f"{wanted.get('type') or 'model'}s", f"{wanted['organization'] or OWNER}/{wanted['name']}"
        if self.is_owner(name):
            exists = f"{kind}/{name}" in self.hub.repos
            self.hub.repos.setdefault(f"{kind}/{name}", Repo(name))
            url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}"
            self.answer({"url": url, "name": name, "id": name, "error": "exists"}, 409 if exists else 200)

    def may_write(self, kind: str, name: str) -> None:
        if self.is_owner(name) and self.find(kind, name):
            self.answer({})

    def validate(self) -> None:
        self.answer({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if self.is_owner(name) and (found := self.find(kind, name, revision)):
            entries = [self._describe(f["path"], found[2].get(f["path"])) for f in json.loads(self.body)["files"]]
            self.answer({"files": entries})

    @staticmethod
    def _describe(path: str, there: bytes | None) -> dict:
        large = path.endswith(LARGE)
        oid = None if there is None else hashlib.sha256(there).hexdigest() if large else _git_id(there)
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def batch(self, name: str, kind: str = "models") -> None:
        objects = json.loads(self.body)["objects"]
        for entry in objects:
            if entry["oid"] not in self.hub.large:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}", "header": {}}}
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.large[oid] = self.body
        self.answer(b"")

    def commit(self, kind: str, name: str, revision: str) -> None:
        if not self.is_owner(name) or not (found := self.find(kind, name, revision)):
            return
        repo, _, files = found[0], found[1], dict(found[2])
        title = ""
        for line in self.body.splitlines():
            key, value = json.loads(line).values()
            if key == "header":
                title = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                del files[value["path"]]
        commit_id = repo.add(files, title)
        self.answer(
            {"success": True, "commitOid": commit_id, "commitUrl": f"{self.hub.url}/{name}/commit/{commit_id}"}
        )

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        if found := self.find(kind, name, revision):
            siblings = [{"rfilename": path} for path in sorted(found[2])]
            facts = {"id": name, "sha": found[1], "private": False, "tags": [], "downloads": 0, "likes": 0}
            self.answer(facts | {"siblings": siblings, "lastModified": "2026-01-01T00:00:00.000Z"})

    def tree(self, kind: str, name: str, revision: str, path: str = "") -> None:
        if not (found := self.find(kind, name, revision)):
            return
        prefix = f"{path}/" if path else ""
        deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        entries = {}
        for file in (file for file in sorted(found[2]) if file.startswith(prefix)):
            parts = file[len(prefix) :].split("/")
            for depth in range(1, len(parts) if deep else min(len(parts), 2)):
                folder = prefix + "/".join(parts[:depth])
                entries[folder] = {"type": "directory", "path": folder, "oid": _git_id(folder.encode()), "size": 0}
            if deep or len(parts) == 1:
                entries[file] = _entry(file, found[2][file])
        if path and not entries:
            return self.refuse(404, "EntryNotFound", f"{path} does not exist")
        self.answer(list(entries.values()))

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        if found := self.find(kind, name, revision):
            text = self.body.decode()
            paths = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
            self.answer([_entry(path, found[2][path]) for path in paths if path in found[2]])

    def resolve(self, name: str, revision: str, path: str, kind: str = "models") -> None:
        if not (found := self.find(kind, name, revision)):
            return
        _, commit_id, files = found
        if path not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        data = files[path]
        etag = hashlib.sha256(data).hexdigest() if path.endswith(LARGE) else _git_id(data)
        headers = {"X-Repo-Commit": commit_id, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self.answer(data[first : last + 1], 206, headers)
        self.answer(data, 200, headers)


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(data), "oid": _git_id(data)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
