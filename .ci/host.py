"""What soak, upgrades and recovery share: the built host, supervised, in a folder of its own, and clients that count each request."""

import asyncio
import contextlib
import ctypes
import datetime
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests/fixtures"
ADMIN_TOKEN = "the-administrators-token"
# A request that takes longer has no answer.
HUNG_AFTER_S = 10
# For an event that must come. Long: the machine may be busy, and nobody waits for it in vain.
DEADLINE_S = 60
CRASHED = "the server has crashed, and is started anew"
MIB = 1 << 20


def binary(arguments):
    """The host that is run: as it is shipped, unless the command line says otherwise."""
    path = pathlib.Path(arguments.host) if arguments.host else ROOT / "target/dist/extension-host"
    if not path.exists():
        raise SystemExit(f"{path} is not there; build it (cargo build --locked --profile dist -p extension-host), or name another with --host")
    return path.resolve()


def since_start(begun=time.monotonic()):
    """Seconds."""
    return time.monotonic() - begun


def is_seen():
    """Whether somebody looks at the terminal."""
    return sys.stderr.isatty()


class Broken(Exception):
    """The connection ended before the answer did."""


class Process:
    """What /proc says of a process."""

    def __init__(self, pid):
        self.folder = pathlib.Path(f"/proc/{pid}")

    def descriptors(self):
        return len(os.listdir(self.folder / "fd"))

    def private_bytes(self):
        """Memory that nobody shares with it."""
        return self._bytes("smaps_rollup", ("Private_Clean:", "Private_Dirty:"))

    def resident_bytes(self):
        return self._bytes("status", ("VmRSS:",))

    def _bytes(self, file, names):
        lines = (self.folder / file).read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.split()[0] in names)


class Host:
    """A host of two processes. Its log is read as it comes, and each line is given to those who wait for it."""

    def __init__(self, program, config):
        self.program = program
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="extension-host-"))
        self.extensions = self.folder / "extensions"
        for inner in (self.extensions, self.folder / "tmp"):
            inner.mkdir()
        self.config = self.folder / "config.toml"
        self.config.write_text(config)
        self.dotenv = {"ADMIN_TOKEN": ADMIN_TOKEN}
        self.log = []
        self.listeners = []
        self.process = None
        self.port = None

    # ---- What is in it ----

    def library(self, source, *defines):
        """A library from a C or C++ source of the tests' fixtures."""
        name = "-".join([source, *(define.replace('"', "").replace("/", "") for define in defines)])
        library = self.folder / f"lib-{name}.so"
        if not library.exists():
            compiler = "c++" if source.endswith(".cc") else "cc"
            options = ["-shared", "-fPIC", "-pthread", *(f"-D{define}" for define in defines), "-I", ROOT / "extension-api/include"]
            subprocess.run([compiler, *options, "-o", library, FIXTURES / source], check=True)
        return library

    def rust_fixture(self, name):
        """A library that is an example of the tests' package."""
        subprocess.run(["cargo", "build", "--quiet", "--locked", "-p", "extension-host-tests", "--example", name], cwd=ROOT, check=True)
        return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/examples" / f"lib{name}.so"

    def put(self, name, library, manifest=""):
        """Puts an extension in place, or another library in the place of the one that it has."""
        folder = self.extensions / f"directus-extension-{name}"
        (folder / "dist").mkdir(parents=True, exist_ok=True)
        (folder / "extension.toml").write_text(manifest)
        shutil.copy(library, folder / "dist/new")
        os.replace(folder / "dist/new", self.library_of(name))

    def library_of(self, name):
        return self.extensions / f"directus-extension-{name}/dist/libextension.so"

    # ---- Its life ----

    async def start(self):
        (self.folder / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in self.dotenv.items()))
        die_with_parent = ctypes.CDLL(None).prctl

        def prepare():
            # An extension that takes all the memory that there is gets this much, and the machine keeps the rest.
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            # PR_SET_PDEATHSIG: it does not stay when this script is killed.
            die_with_parent(1, signal.SIGKILL)

        options = ["--host", "127.0.0.1", "--port", "0", "--log-style", "json"]
        self.process = await asyncio.create_subprocess_exec(
            self.program, "--config", self.config, *options, cwd=self.folder, env=self._environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, limit=MIB, preexec_fn=prepare)
        self._reader = asyncio.create_task(self._read_log())
        line = await self.said("listening")
        self.port = int(line["address"].rsplit(":", 1)[1])

    def _environment(self):
        return {"PATH": os.environ["PATH"], "TMPDIR": str(self.folder / "tmp")}

    async def command(self, *arguments):
        """Runs a command of the host beside it; its code and what it printed."""
        process = await asyncio.create_subprocess_exec(
            self.program, "--config", self.config, *arguments, cwd=self.folder, env=self._environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        printed, _ = await process.communicate()
        return process.returncode, printed.decode()

    def signal(self, number):
        self.process.send_signal(number)

    def servers(self):
        """The processes of its servers, the youngest last."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit():
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                    if int(fields[1]) == self.process.pid and fields[0] != "Z":
                        found.append((int(fields[19]), int(entry.name)))
        return [pid for _, pid in sorted(found)]

    async def alone(self):
        """Waits until there is one server, and gives its process."""
        end = time.monotonic() + DEADLINE_S
        while len(servers := self.servers()) != 1:
            if time.monotonic() > end:
                raise SystemExit(f"there is not one server, but: {servers}")
            await asyncio.sleep(0.02)
        return servers[0]

    async def stop(self):
        """Tells it to stop, and gives its code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self):
        await asyncio.wait_for(self._reader, DEADLINE_S)
        return await self.process.wait()

    async def remove(self):
        if self.process and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- What it says ----

    async def _read_log(self):
        async for line in self.process.stderr:
            try:
                line = json.loads(line)
            except ValueError:
                line = {"message": line.decode(errors="replace").rstrip()}
            self.log.append(line)
            for listener in list(self.listeners):
                listener(line)

    def note(self, sentence):
        """Puts something into its log that it has not said itself."""
        moment = datetime.datetime.now(datetime.timezone.utc)
        self.log.append({"time": moment.strftime("%H:%M:%S.%f"), "message": sentence})

    async def said(self, *sentences, since=0, within=DEADLINE_S):
        """Waits for a line of the log that begins with one of the sentences; a line that came before `since` does not count."""
        found = asyncio.get_running_loop().create_future()

        def look(line):
            if line.get("message", "").startswith(sentences) and not found.done():
                found.set_result(line)

        for line in self.log[since:]:
            look(line)
        self.listeners.append(look)
        try:
            return await asyncio.wait_for(found, within)
        finally:
            self.listeners.remove(look)


class Client:
    """One connection that is kept for request after request, and made anew when the host says that an answer was the last."""

    def __init__(self, port):
        self.port = port
        self.streams = None
        self.asked = 0
        self.answered_at = time.monotonic()

    async def ask(self, path, method="GET", headers=(), body=b""):
        """Status, headers and body of the answer. Broken: there was none, or only a part."""
        request = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
        if body or method == "POST":
            request.append(f"Content-Length: {len(body)}")
        began = time.monotonic()
        try:
            reader, writer = await self._connected()
            self.asked += 1
            writer.write("\r\n".join([*request, "", ""]).encode() + body)
            status, fields = await self._head(reader)
            answered = await self._body(reader, fields)
        except (OSError, EOFError) as cause:
            idle_ms, took_ms = (began - self.answered_at) * 1_000, (time.monotonic() - began) * 1_000
            self.close()
            raise Broken(f"{cause} (request {self.asked} of its connection, sent {idle_ms:.0f} ms after the last answer, ended after {took_ms:.0f} ms)") from None
        except BaseException:
            self.close()
            raise
        self.answered_at = time.monotonic()
        if fields.get("connection") == "close":
            self.close()
        return status, fields, answered

    async def send(self, text):
        """Sends something that no answer is waited for."""
        _, writer = await self._connected()
        writer.write(text.encode())

    def close(self):
        if self.streams:
            self.streams[1].transport.abort()
        self.streams = None

    async def _connected(self):
        # As every client that keeps connections, it sends nothing over one that the other side has closed.
        if self.streams and self.streams[0].at_eof():
            self.close()
        if not self.streams:
            self.asked = 0
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        return self.streams

    @staticmethod
    async def _head(reader):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), fields

    @staticmethod
    async def _body(reader, fields):
        if fields.get("transfer-encoding") != "chunked":
            return await reader.readexactly(int(fields.get("content-length", 0)))
        chunks = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            chunks.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        return b"".join(chunks)


class Counts:
    """What became of requests, one by one."""

    def __init__(self, note=None):
        self.right = self.wrong = self.hung = self.broken = self.refused = 0
        self.samples = []
        self.note = note

    def sample(self, text):
        """Keeps the first few of what should not be."""
        if self.note:
            self.note(f"LOST {text}")
        if len(self.samples) < 20:
            self.samples.append(f"after {since_start():.3f} s: {text}")

    def as_dict(self):
        return {name: getattr(self, name) for name in ("right", "wrong", "hung", "broken", "refused")}


# What the innocent extension is asked, and what it answers.
INNOCENT = [("/c-sample/now", b"hello from C"), ("/c-sample/stream", b"one\ntwo\nthree\n"), ("/c-sample/blocking", b"slept"), ("/server/ping", b"pong")]


async def ask_innocent(client, counts, rng, routes=INNOCENT, on_broken=None):
    """Asks once for one of the routes, or for an echo; counts what comes of it. Whether it was right."""
    path, expected = rng.choice([*routes, ("/c-sample/echo", None)])
    body = b""
    if expected is None:
        expected = body = rng.randbytes(rng.randint(1, 5_000))
    try:
        question = client.ask(path, "POST" if body else "GET", body=body)
        status, _, answered = await asyncio.wait_for(question, HUNG_AFTER_S)
    except asyncio.TimeoutError:
        counts.hung += 1
        counts.sample(f"{path}: no answer within {HUNG_AFTER_S} s")
    except Broken as cause:
        if "refused" in str(cause).lower():
            counts.refused += 1
            counts.sample(f"{path}: {cause}")
        else:
            counts.broken += 1
            if on_broken is None or not on_broken():
                counts.sample(f"{path}: {cause}")
    else:
        if (status, answered) == (200, expected):
            counts.right += 1
            return True
        counts.wrong += 1
        counts.sample(f"{path}: {status} {answered[:200]!r}")
    return False
