"""A model that does anything, and what its faults must lead to; `tests.run.chaos` lets it."""

from __future__ import annotations

from tests.support.environment_files import header

MODEL = (
    header()
    + '''\
import gc, os, signal, socket, struct, sys, threading, time
import numpy as np
from ase.calculators.calculator import Calculator, all_changes


def channel():
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket"):
                return fd
        except OSError:
            pass


def values(atoms):
    """Return what depends on everything that a model is given."""
    z, v, p = atoms.numbers.sum(), atoms.cell.array.sum(), atoms.pbc.sum()
    given = [len(repr(sorted((k, repr(w)) for k, w in atoms.info.items() if k != "fault"))), p, v, z,
             atoms.get_initial_charges().sum(), atoms.get_initial_magnetic_moments().sum(), atoms.get_tags().sum()]
    energy = float(atoms.positions[0, 0])
    for value in given:
        energy = 7.0 * energy + float(value)
    return {"energy": energy, "forces": -atoms.positions + z, "stress": np.arange(6.0) + v + p}


class Chaos(Calculator):
    implemented_properties = ["energy", "forces", "stress", "magmoms", "charges"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = values(atoms)
        if fault := atoms.info.get("fault"):
            exec(fault, globals() | {"self": self, "atoms": atoms, "n": len(atoms), "results": self.results})


def setup(model, device="cpu"):
    exec(model, globals())
    return Chaos()
'''
)

_WHOLE = "struct.pack('<4sIIIIIQQQ', b'RSK1', 5, 3, 0, 0, 0, 10**6, n, 64)"  # an answer to another question
_NO_SIGNALS = "[signal.signal(s, signal.SIG_IGN) for s in range(1, 32) if s not in (9, 19)]"

# It never answers: an error of ours, in time.
HANGS = [
    "time.sleep(1000)",
    "while True: pass",
    "os.kill(os.getpid(), 19)",
    f"{_NO_SIGNALS}; time.sleep(1000)",
    "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); os.fork(); time.sleep(1000)",
    f"os.write(channel(), {_WHOLE}[:20]); time.sleep(1000)",
    "os.write(channel(), b'RSK1'); time.sleep(1000)",
    "while True: os.write(channel(), struct.pack('<4sIIIIIQQQ', b'RSK1', 2, 0, 0, 0, 2, 0, 0, 0) + b'{}')",
]
# An error of ours, and no number.
FAILS = [
    "raise ValueError('chaos')",
    "raise SystemExit(3)",
    "raise KeyboardInterrupt",
    "raise GeneratorExit",
    "class B(BaseException):\n def __str__(s): raise ValueError('no')\nraise B()",
    "class B(Exception):\n def __str__(s): raise SystemExit(9)\nraise B()",
    "class B(Exception):\n def __str__(s): os._exit(3)\nraise B()",
    "raise ValueError('\\ud800 \\x00 \\x1b[2J' * 5000)",
    "def f(): f()\nf()",
    "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "os._exit(0)",
    "os._exit(4)",
    "os.kill(os.getpid(), 9)",
    "os.kill(os.getpid(), 11)",
    "os.abort()",
    "threading.Thread(target=lambda: os._exit(7)).start(); time.sleep(1000)",
    "os.write(channel(), os.urandom(200))",
    f"os.write(channel(), {_WHOLE})",
    f"os.write(channel(), {_WHOLE}[:30]); os._exit(0)",
    "os.write(channel(), b'RSK1' + b'\\xff' * 60)",
    "os.closerange(3, 200)",
    "d = os.open('/dev/zero', os.O_RDWR); os.dup2(d, channel())",
    "os.dup2(1, channel())",
    "import ctypes; ctypes.string_at(0)",
    "sys.settrace(lambda *a: 1/0)\n(lambda: 0)()",
    "sys.excepthook = lambda *a: 1/0\nraise MemoryError",
    "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
    "atoms.positions[:] = 7; raise ValueError('after it moved them')",
    "atoms.info.clear(); raise ValueError('after it took what it was told')",
    # What is no result.
    "self.results = None",
    "self.results = {}",
    "self.results = {1: 2, None: 3}",
    "del self.results",
    "results['energy'] = np.nan",
    "results['energy'] = -np.inf",
    "results['forces'] = np.full((n, 3), np.inf)",
    "results['forces'] = np.ones((n + 1, 3))",
    "results['forces'] = np.ones(3 * n + 1)",
    "results['forces'] = None",
    "results['energy'] = np.ones((3, 3))",
    # What is no real number.
    "results['energy'] = 'hello'",
    "results['energy'] = '1e3'",
    "results['energy'] = b'1'",
    "results['energy'] = object()",
    "results['energy'] = True",
    "results['energy'] = 1 + 2j",
    "results['energy'] = np.ma.masked",
    "results['energy'] = np.datetime64(5, 's')",
    "results['forces'] = np.ma.array(results['forces'], mask=True)",
    "results['forces'] = np.zeros((n, 3), complex)",
    "results['forces'] = np.zeros((n, 3), bool)",
    "results['forces'] = np.zeros((n, 3), 'U3')",
    "results['forces'] = np.full((n, 3), None)",
    "results['forces'] = np.zeros((n, 3), [('x', float)])",
]
# The right numbers all the same, in this call and the next.
HOLDS = [
    "print('x' * 10**6, flush=True); print('y' * 10**6, file=sys.stderr, flush=True)",
    "os.write(1, b'z' * 5 * 10**6)",
    "os.close(0); os.close(1); os.close(2)",
    "sys.stdout.close(); sys.stderr = None",
    "import tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)",
    "os.umask(0o777)",
    _NO_SIGNALS,
    "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))",
    "[os.kill(os.getpid(), s) for s in (1, 10, 12, 15)]",
    "os.fork() or os._exit(0)",
    "import subprocess; subprocess.Popen(['sleep', '1000'])",
    "import subprocess; subprocess.Popen(['sleep', '1000'], close_fds=False)",
    "threading.Thread(target=time.sleep, args=(1000,)).start()",
    "import atexit; atexit.register(time.sleep, 1000)",
    "del sys.modules['rootstock']",
    "gc.disable(); sys.setswitchinterval(100)",
    "os.environ.clear()",
    "results['magmoms'] = np.ones((n, 3)); results['charges'] = np.ones(n + 2); results['junk'] = object()",
    # Numbers as models give them.
    "results['forces'].flags.writeable = False",
    "results['forces'] = np.asfortranarray(results['forces'])",
    "results['forces'] = results['forces'][::-1][::-1]",
    "results['forces'] = results['forces'].astype('>f8')",
    "results['forces'] = results['forces'].tolist()",
    "results['energy'] = np.array([results['energy']])",
    "results['energy'] = np.longdouble(results['energy'])",
    # It changes the atoms that it is given.
    "atoms.info.pop('fault')",
    "atoms.info.clear()",
    "atoms.info['more'] = [1]",
    "[value.clear() for value in atoms.info.values() if hasattr(value, 'clear')]",
    "[value['a'].append(5) for value in atoms.info.values() if isinstance(value, dict)]",
    "atoms.numbers[:] = 1",
    "atoms.positions[:] += 1",
    "atoms.positions = np.zeros((n, 3))",
    "atoms.wrap(); atoms.center()",
    "atoms.set_cell(atoms.cell.array * 2, scale_atoms=True)",
    "atoms.pbc = not atoms.pbc[0]",
    "atoms.set_tags(9)",
    "atoms.set_initial_charges(np.ones(n))",
    "atoms.arrays['initial_magmoms'] = np.ones((n, 3))",
    "atoms.arrays.pop('initial_charges', None); atoms.arrays.pop('tags', None); atoms.set_array('more', np.ones(n))",
    "del atoms[0]",
    "atoms += atoms.copy()",
    "atoms.arrays.clear()",
    "atoms.calc = self; atoms.set_constraint()",
    "self.kept = atoms; self.reset = lambda: self.kept.positions.__iadd__(1)",
]
# One or the other, and perhaps the next call fails: what it does comes later.
EITHER = [
    "threading.Thread(target=lambda: (time.sleep(0.01), os._exit(7))).start()",
    "signal.signal(14, lambda *a: 1/0); signal.setitimer(signal.ITIMER_REAL, 0.005)",
    "os.fork() or time.sleep(1000); os._exit(6)",
    "os.fork()",
    "os.fork() or (os.fork() or time.sleep(1000)); os._exit(2)",
    "d = os.open('/dev/null', os.O_RDWR); os.dup2(d, channel())",
    "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); print('x', flush=True)",
    "def t(*a): raise ZeroDivisionError\nsys.setprofile(t)",
]
AT_START = [
    "raise OSError('no weights')",
    "raise SystemExit",
    "raise KeyboardInterrupt",
    "os._exit(5)",
    "os._exit(0)",
    "os.kill(os.getpid(), 9)",
    "os.write(channel(), bytes(100))",
    "os.closerange(3, 99)",
    "threading.Thread(target=lambda: os._exit(3)).start(); time.sleep(1000)",
    "print('x' * 10**7)\nraise ValueError('y' * 10**7)",
    "os.write(channel(), struct.pack('<4sIIIIIQQQ', b'RSK1', 3, 0, 0, 0, 2, 0, 0, 0) + b'{}')",
]
