"""Clients of an endpoint in a process of their own, over connections that stay open.

    python -m tests.benchmarks.serving_clients PORT FOLDER SECONDS closed CLIENTS
    python -m tests.benchmarks.serving_clients PORT FOLDER SECONDS open RATE

closed: so many ask, each again when it was answered. open: so many requests a second, whatever becomes of them. Prints
one JSON line: answers by status, and for 200 and the rest how long they took.
"""

import asyncio
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

_HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
_AT_ONCE = 512  # connections of open load; what would need more counts as lost


class Clients:
    def __init__(self, port: int, bodies: list[bytes]) -> None:
        self._port, self._bodies, self._asked = port, bodies, 0
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.took: dict[str, list[float]] = defaultdict(list)

    async def ask(self) -> None:
        self._asked += 1
        body = self._bodies[self._asked % len(self._bodies)]
        began = time.perf_counter()
        try:
            status = await self._exchange(body)
        except (OSError, asyncio.IncompleteReadError, ValueError, IndexError):
            status = "lost"
        self.took[status].append(time.perf_counter() - began)

    async def _exchange(self, body: bytes) -> str:
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(_HEAD % len(body) + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        if b"connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return head.split(b" ", 2)[1].decode()

    async def closed(self, seconds: float, clients: int) -> None:
        end = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < end:
                await self.ask()

        await asyncio.gather(*(client() for _ in range(clients)))

    async def open(self, seconds: float, rate: float) -> None:
        began, tasks = time.perf_counter(), set[asyncio.Task]()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            if len(tasks) >= _AT_ONCE:
                self.took["lost"].append(0.0)
                continue
            task = asyncio.create_task(self.ask())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)


def _quantiles(times: list[float]) -> dict[str, float]:
    if not times:
        return {}
    p50, p99 = np.quantile(times, (0.5, 0.99)) * 1000
    return {"p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1)}


def main() -> None:
    port, folder, seconds, how, amount = sys.argv[1:]
    bodies = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    clients = Clients(int(port), bodies)
    began = time.perf_counter()
    if how == "closed":
        asyncio.run(clients.closed(float(seconds), int(amount)))
    else:
        asyncio.run(clients.open(float(seconds), float(amount)))
    took = time.perf_counter() - began
    statuses = {status: len(times) for status, times in sorted(clients.took.items())}
    rest = [one for status, times in clients.took.items() if status not in ("200", "lost") for one in times]
    good = clients.took["200"]
    told = {"statuses": statuses, "per_s": round(len(good) / took, 1), **_quantiles(good)}
    print(json.dumps(told | {f"shed_{name}": value for name, value in _quantiles(rest).items()}))


if __name__ == "__main__":
    main()
