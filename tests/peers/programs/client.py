"""A client of i-PI that needs no packages, and misbehaves on command.

    python client.py SOCKET [FAULT [STEP]]

It prints the socket's path, and connects as soon as somebody listens there. The energy is the number of the step, in
Hartree; forces are the positions, the virial is the unit matrix. The fault "wait:FOLDER" makes a file `inside` in that
folder and waits for another, `go`.
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
with socket.socket(socket.AF_UNIX) as sock:
    while True:
        try:
            sock.connect(sys.argv[1])
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

    state, steps, data = b"READY", 0, b""
    while True:
        word = read(12).strip()
        if word == b"STATUS":
            sock.sendall(state.ljust(12))
        elif word == b"POSDATA":
            count = struct.unpack("<i", read(148)[144:])[0]
            data = read(24 * count)
            state, steps = b"HAVEDATA", steps + 1
            faulty = steps == int(step)
            if fault.startswith("wait:") and faulty:
                folder = fault.removeprefix("wait:")
                open(f"{folder}/inside", "w").close()
                while not os.path.exists(f"{folder}/go"):
                    time.sleep(0.01)
        elif word == b"GETFORCE":
            state = b"READY"
            text = b'{"error": "out of paper"}' if fault == "error" and faulty else b""
            virial = struct.pack("<9d", *([1, 0, 0, 0, 1, 0, 0, 0, 1] if fault != "no virial" else [0] * 9))
            announced = len(data) // 24 if fault != "count" or not faulty else 2**31 - 1
            length = len(text) if fault != "text" or not faulty else 2**31 - 1
            energy = float("nan") if fault == "nan" and faulty else float(steps)
            answer = b"FORCEREADY  " + struct.pack("<di", energy, announced) + data + virial
            answer += struct.pack("<i", length) + text
            if fault == "exit" and faulty:
                sys.stderr.write("the client gives up\n")
                os._exit(7)
            if fault == "kill" and faulty:
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "stop" and faulty:
                os.kill(os.getpid(), signal.SIGSTOP)
            if fault == "half" and faulty:
                sock.sendall(answer[:50])
                sys.exit(0)
            sock.sendall(b"{NONSENSE}" * 99 if fault == "garbage" and faulty else answer)
        elif word == b"INIT":
            sys.exit("an INIT that nobody asked for")
        else:
            sys.exit(0)
