"""A coordinator's own SuperLink: its process, and the requests to it.

The process that starts it also ends it. Any process that can read the secret may send it
requests: a study's process makes a :class:`SuperLink` of its own without starting one. Nothing
in it lasts: after a restart nodes are registered and runs started again, from the
coordinator's store.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import structlog

from common.errors import LinkError
from common.process.logs import form_for
from common.visible import LAYOUT, visible
from server.superlink.bundle import bundle
from server.superlink.control_auth import header_value, read_secret, superexec_secret
from server.superlink.grid import FleetGrid, open_task
from server.superlink.launcher import HOST
from server.superlink.wire import client, translated, trust

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
)
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors.http.superexec_auth import SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

if TYPE_CHECKING:
    from common.wire.enrolment import SiteCard
    from server.superlink.notifications import NotificationLine

START_SECONDS: Final = 60.0
"""How long a SuperLink may take to start; it takes about five seconds."""
POLL_SECONDS: Final = 0.1
STOP_SECONDS: Final = 3.0
RECENT_LINES: Final = 100
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_ACQUIRE: Final = "/flwr.proto.Runtime/AcquireTask"
log = structlog.get_logger()


class SuperLink:
    """A SuperLink on loopback.

    Args:
        folder: where its processes meet; only its owner may enter it.
        port: where it listens.
        cert: its certificate, PEM.
        key: the private key of that.
        ca: the authority that issued it, PEM.
        secret: file with the secret that its own processes share, mode 0600.
    """

    def __init__(
        self, folder: Path, port: int, *, cert: Path, key: Path, ca: Path, secret: Path
    ) -> None:
        self.folder = folder
        self.port = port
        self._paths = {"cert": cert, "key": key, "ca": ca, "secret": secret}
        self._secret = read_secret(secret)
        self._tokens: dict[int, str] = {}
        self._process: subprocess.Popen[str] | None = None
        self._recent: deque[str] = deque(maxlen=RECENT_LINES)

    @property
    def address(self) -> str:
        """``host:port`` on loopback."""
        return f"{HOST}:{self.port}"

    @property
    def control_secret(self) -> str:
        """The header value that every request to it must carry."""
        return header_value(self._secret)

    @property
    def ca(self) -> str:
        """Certificate of the authority to trust, PEM."""
        return self._paths["ca"].read_text()

    @property
    def pid(self) -> int | None:
        """The process that was started here, while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def recent(self) -> tuple[str, ...]:
        """The last lines that the process wrote to its standard error."""
        return tuple(self._recent)

    def start(self) -> None:
        """Start the process.

        It is killed when the thread that called this ends, so call it from the main one.
        """
        command = [sys.executable, "-m", "server.superlink.launcher", "--port", str(self.port)]
        command += ["--parent", str(os.getpid()), "--form", form_for(sys.stderr.isatty())]
        for name, path in self._paths.items():
            command += [f"--{name}", str(path)]
        self._process = subprocess.Popen(  # noqa: S603 - the interpreter that runs this
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # Flower keeps files in its home: not in that of the user who starts the coordinator.
            env=os.environ | {"FLWR_HOME": str(self.folder / "flower")},
            process_group=0,  # Ctrl-C goes to the daemon alone, which ends this process in order
        )
        threading.Thread(target=self._relay, args=(self._process,), daemon=True).start()

    def _relay(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self._recent.append(line.rstrip("\n"))
            # Flower's log may quote what a site sent: nothing in it may steer this terminal.
            sys.stderr.write(visible(_COLOURS.sub("", line), keep=LAYOUT))

    def wait_until_healthy(self, timeout: float = START_SECONDS) -> None:
        """Block until it answers.

        Raises:
            LinkError: it ended, or did not answer in time; with its last output.
        """
        deadline = time.monotonic() + timeout
        while not self.healthy():
            ended = self._process is not None and self._process.poll() is not None
            if ended or time.monotonic() >= deadline:
                raise LinkError(
                    "the SuperLink did not start",
                    where=self.address,
                    found="\n          ".join(list(self._recent)[-15:]) or "no output",
                    remedy="read its output above; if the port is in use, stop the program that "
                    "uses it and start again",
                )
            time.sleep(POLL_SECONDS)

    def healthy(self) -> bool:
        """Whether it answers now."""
        url = f"https://{self.address}/health"
        try:
            answer = httpx.get(url, verify=trust(self.ca), timeout=2.0, trust_env=False)
        except (httpx.HTTPError, OSError):
            return False
        return answer.is_success

    def stop(self) -> None:
        """End the process that was started here, and wait for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def register(self, card: SiteCard) -> int:
        """Make a node of a site, or find the one that was made.

        Raises:
            LinkError: the SuperLink did not do it.
        """
        key = card.node_key.encode()
        with self._control() as control, translated("to register a node"):
            # Flower refuses to register a key twice, also one whose node was removed.
            for node in control.ListNodes(ListNodesRequest()).nodes_info:
                if node.public_key == key:
                    return int(node.node_id)
            request = RegisterNodeRequest(public_key=key, name=card.name)
            return int(control.RegisterNode(request).node_id)

    def start_run(self, study: str) -> int:
        """Begin a run with the codeless bundle and take its task, for :meth:`open_grid`.

        Flower gives the oldest task to any process that asks. So starting and taking are one
        step, which one process does at a time; a task that a killed process did not take is
        taken first and dropped.

        Raises:
            LinkError: the SuperLink did not do it.
        """
        with self._alone(), self._control() as control, translated("to start a run"):
            run_id = int(control.StartRun(StartRunRequest(fab=bundle())).run_id)
            if not run_id:
                raise LinkError("the SuperLink started no run", where=study)
            while (task := self._acquire()).task.run_id != run_id:
                if not task.token:
                    raise LinkError("another process took the run's task", where=study)
            self._tokens[run_id] = task.token
        log.info("run.started", study=study, run=run_id)
        return run_id

    def open_grid(self, run_id: int, notifications: NotificationLine | None) -> FleetGrid:
        """The grid of a run that this object started; this process serves that run alone.

        Args:
            run_id: what :meth:`start_run` gave.
            notifications: how to hear of replies; None to look for them several times a second.

        Raises:
            LinkError: the SuperLink did not do it.
        """
        token = self._tokens.pop(run_id)
        return open_task(self.address, self.ca, self.control_secret, token, notifications)

    def _control(self) -> ControlHttpClient:
        return client(ControlHttpClient, self.address, self.ca, self.control_secret)

    def _acquire(self) -> AcquireTaskResponse:
        signing = SuperExecAuthHttpInterceptor(
            master_secret=superexec_secret(self._secret), protected_methods=[_ACQUIRE]
        )
        with client(
            RuntimeHttpClient, self.address, self.ca, self.control_secret, [signing]
        ) as runtime:
            request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
            return runtime.AcquireTask(request)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "runs.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # which the system releases when a process is killed
            yield
