"""A client of i-PI that needs no packages, and misbehaves on command.

    python client.py SOCKET [FAULT [STEP]]

It prints the socket's path, or HOST:PORT, and connects as soon as somebody listens there. The energy is the number of
the step, in Hartree; with the fault "x" it is the first coordinate, in bohr. Forces are the positions, the virial is
the unit matrix. The fault "wait:FOLDER" makes a file `inside` in that folder and waits for another, `go`. So does
"load", before the first answer of all; and "ahead", which then sends the replies to a whole evaluation that nobody
asked for, and makes the file `sent`. "twice" and "wait twice:FOLDER" send such replies together with the right ones.
"""

import os
import signal
import socket
import struct
import sys
import time

fault, step = (*sys.argv[2:], "none", "1")[:2] if len(sys.argv) < 4 else sys.argv[2:4]
print(sys.argv[1], flush=True)  # noqa: T201
parent = os.getppid()
host, _, port = sys.argv[1].rpartition(":")
with socket.socket(socket.AF_INET if host else socket.AF_UNIX) as sock:
    while True:
        try:
            sock.connect((host, int(port)) if host else sys.argv[1])
            break
        except (FileNotFoundError, ConnectionRefusedError):
            if os.getppid() != parent:
                sys.exit("nobody waits for this client any more")
            time.sleep(0.02)

    def read(size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = sock.recv(size - len(data))
            if not piece:
                sys.exit(0)
            data += piece
        return data

    def wait(folder: str) -> None:
        open(f"{folder}/inside", "w").close()
        while not os.path.exists(f"{folder}/go"):
            time.sleep(0.01)

    kind, _, folder = fault.partition(":")
    state, steps, data = b"READY", 0, b""
    if kind == "load":
        wait(folder)
    while True:
        word = read(12).strip()
        if word == b"STATUS":
            sock.sendall(state.ljust(12))
        elif word == b"POSDATA":
            count = struct.unpack("<i", read(148)[144:])[0]
            data = read(24 * count)
            state, steps = b"HAVEDATA", steps + 1
            faulty = steps == int(step)
            if kind in ("wait", "wait twice") and faulty:
                wait(folder)
        elif word == b"GETFORCE":
            state = b"READY"
            text = b'{"error": "out of paper"}' if fault == "error" and faulty else b""
            virial = struct.pack("<9d", *([1, 0, 0, 0, 1, 0, 0, 0, 1] if fault != "no virial" else [0] * 9))
            announced = len(data) // 24 if fault != "count" or not faulty else 2**31 - 1
            length = len(text) if fault != "text" or not faulty else 2**31 - 1
            energy = float("nan") if fault == "nan" and faulty else float(steps)
            if fault == "x":
                energy = struct.unpack_from("<d", data)[0]
            answer = b"FORCEREADY  " + struct.pack("<di", energy, announced) + data + virial
            answer += struct.pack("<i", length) + text
            if fault == "exit" and faulty:
                sys.stderr.write("the client gives up\n")
                os._exit(7)
            if fault == "kill" and faulty:
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "stop" and faulty:
                os.kill(os.getpid(), signal.SIGSTOP)
            if fault == "close" and faulty:
                sock.close()
                time.sleep(1000)
            if fault == "half" and faulty:
                sock.sendall(answer[:50])
                sys.exit(0)
            if kind in ("twice", "wait twice") and faulty:
                answer += b"READY       HAVEDATA    " + answer
            sock.sendall(b"{NONSENSE}" * 99 if fault == "garbage" and faulty else answer)
            if kind == "ahead" and faulty:
                wait(folder)
                sock.sendall(b"READY       HAVEDATA    " + answer)
                open(f"{folder}/sent", "w").close()
        elif word == b"INIT":
            sys.exit("an INIT that nobody asked for")
        else:
            sys.exit(0)
