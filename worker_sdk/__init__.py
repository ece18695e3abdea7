"""Workers and clients for a Fetchlock broker.

    from worker_sdk import Task, Worker

    worker = Worker("http://127.0.0.1:8080", concurrency=20)

    @worker.task("validatePayment")
    async def validate(task: Task) -> dict:
        return {"paymentValid": True}

    worker.run()

Everything public is here; the modules with an underscore are not.
"""

from worker_sdk._callback import CallbackRequest, CallbackUrl
from worker_sdk._client import Client
from worker_sdk._errors import (
    CallbackExpired,
    Conflict,
    ConnectionFailed,
    FetchlockError,
    Invalid,
    LockLost,
    TaskNotFound,
    Unavailable,
)
from worker_sdk._news import News
from worker_sdk._outcome import BpmnError, Failure, HandOver
from worker_sdk._task import NewTask, Subscription, Task
from worker_sdk._transport import Answer, Transport
from worker_sdk._worker import Worker

__all__ = [
    "Answer",
    "BpmnError",
    "CallbackExpired",
    "CallbackRequest",
    "CallbackUrl",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Failure",
    "FetchlockError",
    "HandOver",
    "Invalid",
    "LockLost",
    "NewTask",
    "News",
    "Subscription",
    "Task",
    "TaskNotFound",
    "Transport",
    "Unavailable",
    "Worker",
]
