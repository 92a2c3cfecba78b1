"""A worker that opens no site and starts in no time: it says what ``worker.json`` tells it to.

With ``waits`` it works on a request until the file of that name is there, ``bytes`` says how
long its reply is, and with ``dies`` it kills itself over the first study of that name.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np

from client.daemon import frames
from client.daemon.frames import Frame
from client.daemon.worker import WorkerSettings
from common.process.parent import die_with_parent
from common.wire import flower
from common.wire.flower import Message
from common.wire.messages import Reply, reply_to_record, request_from_record

HABITS = "worker.json"


def answer(frame: Frame, habits: dict[str, object]) -> Frame:
    message = flower.message_from_bytes(frame.payload)
    request = request_from_record(message.content)
    if request.study == habits.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    while "waits" in habits and not Path(str(habits["waits"])).exists():
        time.sleep(0.01)
    arrays = np.zeros(int(str(habits.get("bytes", 8))) // 8, dtype=np.int64)
    reply = Reply(
        site="north",
        request=request.identity,
        study=request.study,
        plan_hash=request.plan_hash,
        round=request.round,
        purpose=request.purpose,
        arrays=arrays,
    )
    content = Message(reply_to_record(reply), reply_to=message)
    fields = {"message": frame.fields["message"], "code": "ok"}
    return Frame("reply", fields, flower.message_bytes(content))


def main() -> None:
    end, order = socket.socket(fileno=int(sys.argv[1])), WorkerSettings.read(sys.argv[2])
    die_with_parent(order.parent)
    frames.send(end, Frame("ready"))
    while (frame := frames.receive(end)) is not None:
        told = order.state / HABITS
        frames.send(end, answer(frame, json.loads(told.read_text()) if told.exists() else {}))


if __name__ == "__main__":
    main()
