"""Create a few tasks, wait for each, and show how it ended."""

import anyio

from worker_sdk import Client, NewTask


async def main() -> None:
    """One task per amount."""
    async with Client("http://127.0.0.1:8080") as client:
        for amount in (12, 99, 120):
            task = await client.create(NewTask("validatePayment", {"amount": amount}), wait_s=10)
            print(amount, task.state, task.error_code or task.result)


if __name__ == "__main__":
    anyio.run(main)
