"""asyncio, multiprocessing, socketserver and descriptors in messages over AF_UNIX: prints what Linux gives it."""
import asyncio
import multiprocessing
import multiprocessing.managers
import os
import socket
import socketserver
import threading
from pathlib import Path


async def handle(reader, writer):
    writer.write((await reader.readline()).upper())
    await writer.drain()
    writer.close()


async def talk():
    server = await asyncio.start_unix_server(handle, "srv.sock")
    for i in range(5):
        reader, writer = await asyncio.open_unix_connection("srv.sock")
        writer.write(b"hello %d\n" % i)
        await writer.drain()
        print(await reader.read())
        writer.close()
    process = await asyncio.create_subprocess_exec("/bin/echo", "sub", stdout=asyncio.subprocess.PIPE)
    print((await process.communicate())[0], process.returncode)
    server.close()
    await server.wait_closed()


def square(x):
    return x * x


class Reverse(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline()[::-1])


def processes():
    with multiprocessing.Pool(2) as pool:
        print(pool.map(square, range(5)))
    manager = multiprocessing.Manager()
    shared = manager.dict()
    shared["a"] = 1
    print(dict(shared))
    manager.shutdown()


def threads():
    server = socketserver.ThreadingUnixStreamServer("ss", Reverse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("ss")
        client.sendall(b"abc\n")
        print(client.recv(10))
    server.shutdown()
    server.server_close()


def received(end, size):
    data = b""
    while len(data) < size:
        data += end.recv(65536)
    return data


def pairs():
    a, b = socket.socketpair()
    socket.send_fds(a, [b"x"], [0, 1])
    print(len(socket.recv_fds(b, 10, 5)[1]))
    print(os.readlink("/proc/self/fd/%d" % a.fileno()).split(":")[0], os.fstat(a.fileno()).st_mode)
    big = os.urandom(300000)
    a.settimeout(5)
    b.settimeout(5)
    Path("f").write_bytes(big)
    with Path("f").open("rb") as file:
        for send, what in ((a.sendall, big), (a.sendfile, file)):
            thread = threading.Thread(target=send, args=(what,))
            thread.start()
            print(received(b, len(big)) == big)
            thread.join()
    r, w = os.pipe()
    a.send(b"splice me")
    print(os.splice(b.fileno(), w, 100), os.read(r, 100))
    os.write(w, b"and back")
    print(os.splice(r, a.fileno(), 100), b.recv(100))
    print(Path("/proc/self/fdinfo/%d" % a.fileno()).read_text().split()[:4])


if __name__ == "__main__":
    asyncio.run(talk())
    processes()
    threads()
    pairs()
