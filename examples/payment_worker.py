"""A worker: start it, then run create_tasks.py beside it.

fetchlock dev
fetchlock worker examples.payment_worker:worker
"""

from worker_sdk import BpmnError, Task, Worker

worker = Worker("http://127.0.0.1:8080", concurrency=20)


@worker.task("validatePayment")
async def validate(task: Task) -> dict[str, object]:
    """Complete the task with variables, or finish it with a business outcome."""
    task.progress(subtext="asking the bank")
    if task.variables["amount"] > 100:
        raise BpmnError("CARD_DECLINED", "the amount is above the limit")
    return {"paymentValid": True, "chargeId": f"ch_{task.id[-6:]}"}


if __name__ == "__main__":
    worker.run()
