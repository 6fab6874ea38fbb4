"""What people and libraries leave behind in a kernel between cells, each with the verdict that is right for it.

"user": code of the user (or code that no gate guards) runs, or may start by itself. "harmless": nothing of the user's
can run until a request passes the gate. A case is cells, run in a real kernel. `stop` is a fresh `threading.Event`,
set when the case ends; `project(name, source)` and `library(name, source)` import a module written to disk, outside
and inside a site-packages folder; `loop` is the kernel's asyncio loop.

The cases were written before the rules, and split by a fixed seed: the rules were tuned on `TUNING` alone, `HELD_OUT`
was run once, when the rules stood. The first results are in test_background_work.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One thing left behind: `setup` is the cell that leaves it, `cleanup` the cell that takes it away again."""

    name: str
    user: bool
    setup: str
    cleanup: str = ""
    needs: tuple = ()  # modules without which the case means nothing
    request: str = ""  # a request other than a cell, sent by the harness
    spoils: bool = False  # the kernel is of no use for another case


def _user(name, setup, cleanup="", **rest):
    return Case(name, True, setup, cleanup, **rest)


def _harmless(name, setup, cleanup="", **rest):
    return Case(name, False, setup, cleanup, **rest)


_THREAD = "t = threading.Thread(target={}, daemon=True); t.start()\n"
# A builtin that stays in C until the case ends: no frame of the user's, and no clock.
_HELD = "held = threading.Lock(); _ = held.acquire()\n"
_PIPE = "out, into = os.pipe()\n"  # the same for another process
_LOOPER = "def train():\n    while not stop.wait(.02): sum(range(500))\n"

USER = [
    # threads by what they were given to run
    _user("thread looping over short waits", _LOOPER + _THREAD.format("train")),
    _user(
        "thread in a long sleep", "def train():\n    time.sleep(1)\n" + _THREAD.format("train"), "t.join()"
    ),
    _user(
        "thread parked in queue.get",
        "q = queue.Queue()\ndef train():\n    while q.get() is not None: pass\n" + _THREAD.format("train"),
        "q.put(None); t.join()",
    ),
    _user(
        "thread parked in lock.acquire",
        "lock = threading.Lock(); lock.acquire()\ndef train():\n    lock.acquire()\n"
        + _THREAD.format("train"),
        "lock.release(); t.join()",
    ),
    _user(
        "thread whose target is a builtin",
        _HELD + _THREAD.format("held.acquire"),
        "held.release(); t.join()",
    ),
    _user("thread whose target is the wait of an event", _THREAD.format("stop.wait")),
    _user(
        "thread subclass defined in a cell",
        "class Trainer(threading.Thread):\n    def run(self):\n        stop.wait()\n"
        "t = Trainer(daemon=True); t.start()",
    ),
    _user(
        "thread subclass of a module on disk",
        "m = project('trainers', 'import threading\\nclass Trainer(threading.Thread):\\n"
        "    def run(self):\\n        self.stop.wait()\\n')\nt = m.Trainer(daemon=True); t.stop = stop; t.start()",
    ),
    _user(
        "thread running a function of a module on disk",
        "m = project('lessons', 'def train(stop):\\n    stop.wait()\\n')\n"
        "t = threading.Thread(target=m.train, args=(stop,), daemon=True); t.start()",
    ),
    _user(
        "thread running a callable object",
        "class Model:\n    def __call__(self):\n        stop.wait()\n" + _THREAD.format("Model()"),
    ),
    _user(
        "thread running a partial of a bound method",
        "class Model:\n    def fit(self, n):\n        stop.wait()\n"
        + _THREAD.format("functools.partial(Model().fit, 3)"),
    ),
    _user(
        "thread running a function dressed as a library's",
        "import tqdm._monitor as w\n@functools.wraps(w.TMonitor.run)\ndef train():\n    stop.wait()\n"
        + _THREAD.format("train"),
        needs=("tqdm",),
    ),
    _user(
        "thread running exec'd source",
        "ns = {'stop': stop}\nexec('def train():\\n    stop.wait()', ns)\n" + _THREAD.format("ns['train']"),
    ),
    _user(
        "thread without a Thread object",
        "import _thread\ndef train():\n    stop.wait()\n_thread.start_new_thread(train, ())",
    ),
    _user(
        "thread in C calls of numpy, no frame of the user's",
        "import numpy as np, collections\nbox = [np.random.rand(250, 250)]\n"
        + _THREAD.format("functools.partial(collections.deque, map(np.linalg.svd, iter(box.copy, [])), 0)"),
        "box.clear(); t.join()",
        needs=("numpy",),
    ),
    _user(
        "thread in forward passes of torch, no frame of the user's",
        "import torch, collections\nm = torch.nn.Linear(1500, 1500); box = [torch.ones(800, 1500)]\n"
        + _THREAD.format(
            "functools.partial(collections.deque, map(m, map(torch.stack, iter(box.copy, []))), 0)"
        ),
        "box.clear(); t.join()",
        needs=("torch",),
    ),
    _user(
        "thread reading the output of a process",
        "import subprocess\np = subprocess.Popen(['sleep', '4'], stdout=subprocess.PIPE)\n"
        "def tail():\n    for line in p.stdout: print(line)\n" + _THREAD.format("tail"),
        "p.kill(); p.wait(); t.join(); p.stdout.close()",
    ),
    _user(
        "thread waiting on a multiprocessing connection",
        "import multiprocessing as mp\na, b = mp.Pipe()\n" + _THREAD.format("a.recv"),
        "b.send(None); t.join()",
    ),
    # timers
    _user(
        "Timer of a user function", "t = threading.Timer(30, lambda: None); t.start()", "t.cancel(); t.join()"
    ),
    _user(
        "Timer of a tensor's method",
        "import torch\nt = threading.Timer(30, torch.ones(3).sum); t.start()",
        "t.cancel(); t.join()",
        needs=("torch",),
    ),
    _user(
        "Timer of a partial of print",
        "t = threading.Timer(30, functools.partial(print, 1)); t.start()",
        "t.cancel(); t.join()",
    ),
    _user(
        "Timer that arms itself again",
        "def again():\n    global t\n    if not stop.is_set():\n"
        "        t = threading.Timer(.03, again); t.start()\nagain()",
        "stop.set(); t.join()",
    ),
    _user(
        "sched.scheduler run in a thread",
        "import sched\ns = sched.scheduler()\ne = s.enter(1, 1, int)\n" + _THREAD.format("s.run"),
        "s.cancel(e); t.join()",
    ),
    # the kernel's event loop
    _user(
        "task of a coroutine that sleeps",
        "async def f():\n    while True: await asyncio.sleep(5)\nt = asyncio.create_task(f())",
        "t.cancel()",
    ),
    _user(
        "task waiting for an event",
        "ev = asyncio.Event()\nasync def f():\n    await ev.wait()\nt = asyncio.create_task(f())",
        "ev.set()",
    ),
    _user(
        "task of wait_for around a user coroutine",
        "async def f(): await asyncio.sleep(50)\nt = asyncio.ensure_future(asyncio.wait_for(f(), 40))",
        "t.cancel()",
    ),
    _user(
        "gather of user coroutines",
        "async def f(): await asyncio.sleep(50)\nt = asyncio.gather(f(), f())",
        "t.cancel()\nawait asyncio.wait([t]) if False else None",
    ),
    _user(
        "task that drains an async generator",
        "async def g():\n    while True:\n        yield 1\n        await asyncio.sleep(5)\n"
        "async def f():\n    async for _ in g(): pass\nt = asyncio.create_task(f())",
        "t.cancel()",
    ),
    _user(
        "task waiting for a function in a thread",
        _HELD + "async def f(): await asyncio.to_thread(held.acquire)\nt = asyncio.create_task(f())",
        "held.release(); await t",
    ),
    _user("call_later of a user function", "h = loop.call_later(30, lambda: None)", "h.cancel()"),
    _user("call_later of print", "h = loop.call_later(30, print, 1)", "h.cancel()"),
    _user(
        "call_at of a callable object",
        "class Tick:\n    def __call__(self): pass\nh = loop.call_at(loop.time() + 30, Tick())",
        "h.cancel()",
    ),
    _user(
        "call_later through a context",
        "import contextvars\nh = loop.call_later(30, contextvars.copy_context().run, lambda: None)",
        "h.cancel()",
    ),
    _user(
        "call_soon that arms itself again",
        "def again():\n    if not stop.is_set(): loop.call_soon(again)\nagain()",
    ),
    _user(
        "tornado PeriodicCallback of a user function",
        "import tornado.ioloop\np = tornado.ioloop.PeriodicCallback(lambda: None, 5000); p.start()",
        "p.stop()",
    ),
    _user(
        "tornado PeriodicCallback of a list's method",
        "import tornado.ioloop\np = tornado.ioloop.PeriodicCallback([].clear, 5000); p.start()",
        "p.stop()",
    ),
    _user(
        "tornado call_later",
        "import tornado.ioloop\nio = tornado.ioloop.IOLoop.current(); h = io.call_later(30, lambda: None)",
        "io.remove_timeout(h)",
    ),
    _user(
        "tornado spawn_callback of a coroutine",
        "import tornado.ioloop\nasync def f():\n    while not stop.is_set(): await asyncio.sleep(.05)\n"
        "tornado.ioloop.IOLoop.current().spawn_callback(f)",
    ),
    _user(
        "tornado handler of a pipe",
        "import tornado.ioloop\nr, w = os.pipe(); io = tornado.ioloop.IOLoop.current()\n"
        "io.add_handler(r, lambda fd, events: None, io.READ)",
        "io.remove_handler(r); os.close(r); os.close(w)",
    ),
    _user(
        "add_reader of a user function",
        "r, w = os.pipe(); loop.add_reader(r, lambda: None)",
        "loop.remove_reader(r); os.close(r); os.close(w)",
    ),
    _user(
        "add_reader of os.read",
        "r, w = os.pipe(); loop.add_reader(r, os.read, r, 1)",
        "loop.remove_reader(r); os.close(r); os.close(w)",
    ),
    _user(
        "server on the kernel's loop",
        "async def serve(reader, writer): writer.close()\nsrv = await asyncio.start_server(serve, '127.0.0.1', 0)",
        "srv.close()",
    ),
    _user(
        "ZMQStream with a user callback",
        "import zmq\nfrom zmq.eventloop.zmqstream import ZMQStream\nsock = zmq.Context.instance().socket(zmq.PULL)\n"
        "sock.bind_to_random_port('tcp://127.0.0.1'); st = ZMQStream(sock); st.on_recv(lambda m: None)",
        "st.close()",
    ),
    _user(
        "signal handler of the loop",
        "import signal\nloop.add_signal_handler(signal.SIGUSR2, lambda: None)",
        "loop.remove_signal_handler(signal.SIGUSR2)",
    ),
    _user(
        "GUI event loop",
        "get_ipython().kernel.eventloop = lambda kernel: None",
        "get_ipython().kernel.eventloop = None",
    ),
    # event loops of their own
    _user(
        "empty loop of the user's own in a thread",
        "l = asyncio.new_event_loop()\n" + _THREAD.format("l.run_forever"),
        "l.call_soon_threadsafe(l.stop); t.join(); l.close()",
    ),
    _user(
        "loop in a thread with a coroutine in it",
        "l = asyncio.new_event_loop()\nasync def f(): await asyncio.sleep(50)\n"
        + _THREAD.format("l.run_forever")
        + "f1 = asyncio.run_coroutine_threadsafe(f(), l)",
        "f1.cancel(); asyncio.run_coroutine_threadsafe(asyncio.sleep(0), l).result()\n"
        "l.call_soon_threadsafe(l.stop); t.join(); l.close()",
    ),
    _user(
        "asyncio.run in a thread",
        "async def f():\n    while not stop.is_set(): await asyncio.sleep(.02)\n"
        "t = threading.Thread(target=lambda: asyncio.run(f())); t.start()",
        "stop.set(); t.join()",
    ),
    # pools
    _user(
        "executor running a builtin",
        _HELD + "import concurrent.futures as cf\ne = cf.ThreadPoolExecutor(2); f = e.submit(held.acquire)",
        "held.release(); e.shutdown()",
    ),
    _user(
        "executor running a user function",
        "import concurrent.futures as cf\n" + _LOOPER + "e = cf.ThreadPoolExecutor(2); f = e.submit(train)",
        "stop.set(); e.shutdown()",
    ),
    _user(
        "executor with queued work",
        _HELD + "import concurrent.futures as cf\ne = cf.ThreadPoolExecutor(1)\n"
        "fs = [e.submit(held.acquire) for _ in range(3)]",
        "for f in fs: held.release(); f.result()\ne.shutdown()",
    ),
    _user(
        "executor with a done callback to come",
        _HELD + "import concurrent.futures as cf\ne = cf.ThreadPoolExecutor(1); f = e.submit(held.acquire)\n"
        "f.add_done_callback(lambda f: None)",
        "held.release(); e.shutdown()",
    ),
    _user(
        "default executor running a user function",
        _LOOPER + "f = loop.run_in_executor(None, train)",
        "stop.set(); await f",
    ),
    _user(
        "ThreadPool running a builtin",
        _HELD
        + "from multiprocessing.pool import ThreadPool\np = ThreadPool(2); r = p.apply_async(held.acquire)",
        "held.release(); r.wait(); p.close(); p.join()",
    ),
    _user(
        "process pool with a callback to come",
        _PIPE + "import multiprocessing as mp\np = mp.get_context('fork').Pool(1)\n"
        "r = p.apply_async(os.read, (out, 1), callback=lambda r: None)",
        "os.write(into, b'.'); r.wait(); p.close(); p.join(); os.close(into); os.close(out)",
    ),
    _user(
        "process pool fed by a user generator",
        "import multiprocessing as mp\np = mp.get_context('fork').Pool(1)\ndef g():\n"
        "    while not stop.is_set():\n        time.sleep(.02); yield 1\nr = p.imap(abs, g())",
        "stop.set(); p.close(); p.join()",
    ),
    _user(
        "process executor with a done callback to come",
        _PIPE + "import concurrent.futures as cf, multiprocessing as mp\n"
        "e = cf.ProcessPoolExecutor(1, mp_context=mp.get_context('fork')); f = e.submit(os.read, out, 1)\n"
        "f.add_done_callback(lambda f: None)",
        "os.write(into, b'.'); e.shutdown(); os.close(into); os.close(out)",
    ),
    _user(
        "joblib pool still computing",
        _HELD
        + "from joblib import Parallel, delayed\ng = Parallel(2, backend='threading', return_as='generator_unordered')"
        "(delayed(held.acquire)() for _ in range(2))",  # either may be the first to get it
        "held.release(); _ = next(g); held.release(); _ = list(g); del g",
        needs=("joblib",),
    ),
    # IPython's own ways
    _user(
        "IPython background job of a builtin",
        _HELD + "from IPython.lib.backgroundjobs import BackgroundJobManager\n"
        "b = BackgroundJobManager(); j = b.new(held.acquire)",
        "held.release(); j.join()",
    ),
    _user(
        "IPython background job of an expression",
        "from IPython.lib.backgroundjobs import BackgroundJobManager\n"
        "b = BackgroundJobManager(); j = b.new('stop.wait()')",
        "stop.set(); j.join()",
    ),
    _user("script cell in the background", "%%script --bg --proc p bash\nexec sleep 30\n", "p.kill()"),
    # servers and libraries that call back
    _user(
        "http.server in a thread",
        "import http.server\ns = http.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)\n"
        + _THREAD.format("s.serve_forever"),
        "s.shutdown(); t.join(); s.server_close()",
    ),
    _user(
        "logging.config.listen",
        "import logging.config\nt = logging.config.listen(0); t.start(); t.ready.wait()",
        "logging.config.stopListening(); t.join()",
    ),
    _user(
        "scheduler library that wakes by itself",
        "m = library('cronlike', '''import threading\nclass Scheduler:\n"
        "    def __init__(self, job, stop): self.job, self.stop = job, stop\n"
        "    def start(self): threading.Thread(target=self._main_loop, daemon=True).start()\n"
        "    def _main_loop(self):\n        while not self.stop.wait(30): self.job()\n''')\n"
        "m.Scheduler(print, stop).start()",
    ),
    _user(
        "file watcher library",
        "m = library('watchlike', '''import os, select, threading\nclass Emitter(threading.Thread):\n    fd = None\n"
        "    def run(self):\n        select.select([self.fd], [], [])\n''')\n"
        "r, w = os.pipe(); t = m.Emitter(daemon=True); t.fd = r; t.start()",
        "os.close(w); t.join(); os.close(r)",
    ),
    _user(
        "library thread that calls a user function now and then",
        "m = library('pollinglike', '''import threading\nclass Poller(threading.Thread):\n    def run(self):\n"
        "        while not self.stop.wait(.02): self.call()\n''')\n"
        "t = m.Poller(daemon=True); t.stop = stop; t.call = lambda: None; t.start()",
    ),
    # signals and hooks
    _user(
        "interval timer with a handler",
        "import signal\nold = signal.signal(signal.SIGALRM, lambda *a: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 30) and None",
        "signal.setitimer(signal.ITIMER_REAL, 0); signal.signal(signal.SIGALRM, old) and None",
    ),
    _user(
        "alarm with a handler",
        "import signal\nold = signal.signal(signal.SIGALRM, lambda *a: None); signal.alarm(60) and None",
        "signal.alarm(0); signal.signal(signal.SIGALRM, old) and None",
    ),
    _user(
        "handler that saves on SIGUSR1",
        "import signal\ndef save(*a): pass\nold = signal.signal(signal.SIGUSR1, save)",
        "signal.signal(signal.SIGUSR1, old) and None",
    ),
    _user(
        "callback of the garbage collector",
        "import gc\ndef note(phase, info): pass\ngc.callbacks.append(note)",
        "gc.callbacks.remove(note)",
    ),
]

HARMLESS = [
    _harmless("variables, functions, a half-run generator", "x = [1]\ndef f(): yield 1\ng = f(); next(g)"),
    # threads that libraries leave behind
    _harmless("tqdm bar", "import tqdm\nfor _ in tqdm.tqdm(range(3)): pass", needs=("tqdm",)),
    _harmless(
        "tqdm bar of widgets",
        "import tqdm.auto\nfor _ in tqdm.auto.tqdm(range(3)): pass",
        needs=("tqdm", "ipywidgets"),
    ),
    _harmless(
        "tensorboard writer",
        "from torch.utils.tensorboard import SummaryWriter\nw = SummaryWriter(folder); w.add_scalar('a', 1, 1)",
        "w.close()",
        needs=("torch", "tensorboard"),
    ),
    _harmless(
        "DataLoader with persistent workers",
        "import torch\nfrom torch.utils.data import DataLoader\n"
        "d = DataLoader(torch.arange(64.), batch_size=2, num_workers=1, persistent_workers=True)\n"
        "it = iter(d); _ = [next(it) for _ in range(3)]",
        "del it, d",
        needs=("torch",),
    ),
    _harmless(
        "torch threads after a backward pass",
        "import torch\nm = torch.nn.Linear(300, 300); m(torch.ones(300, 300)).sum().backward()",
        "del m",
        needs=("torch",),
    ),
    _harmless(
        "compile workers of torch",
        "import torch._inductor.compile_worker.subproc_pool as s\n"
        "p = s.SubprocPool(1); f = p.submit(int); _ = f.result()",
        "p.shutdown()",
        needs=("torch",),
    ),
    _harmless(
        "numpy threads after a product",
        "import numpy as np\na = np.random.rand(300, 300); _ = a @ a",
        needs=("numpy",),
    ),
    _harmless(
        "scikit-learn forest on threads",
        "import numpy as np\nfrom sklearn.ensemble import RandomForestClassifier as R\n"
        "_ = R(4, n_jobs=2).fit(np.random.rand(20, 3), np.arange(20) % 2)",
        needs=("sklearn",),
    ),
    _harmless(
        "joblib processes, idle",
        "from joblib import Parallel, delayed\n_ = Parallel(2)(delayed(abs)(i) for i in range(4))",
        "from joblib.externals.loky import get_reusable_executor\nget_reusable_executor().shutdown(wait=True)",
        needs=("joblib",),
    ),
    _harmless(
        "fsspec's own loop",
        "import fsspec.asyn\nasync def f(): return 1\n_ = fsspec.asyn.sync(fsspec.asyn.get_loop(), f)",
        needs=("fsspec",),
    ),
    _harmless("anyio worker thread", "import anyio\nawait anyio.to_thread.run_sync(int)", needs=("anyio",)),
    _harmless(
        "library thread parked on an event",
        "m = library('eventlike', 'def serve(stop):\\n    stop.wait()\\n')\n"
        "t = threading.Thread(target=m.serve, args=(stop,), daemon=True); t.start()",
    ),
    _harmless(
        "library thread parked on a queue",
        "m = library('queuelike', 'def serve(q):\\n    while q.get() is not None: pass\\n')\n"
        "q = queue.Queue(); t = threading.Thread(target=m.serve, args=(q,), daemon=True); t.start(); q.put(1)",
        "q.put(None); t.join()",
    ),
    # pools with nothing to do
    _harmless(
        "thread executor, idle",
        "import concurrent.futures as cf\ne = cf.ThreadPoolExecutor(2); f = e.submit(int); _ = f.result()",
        "e.shutdown()",
    ),
    _harmless("default executor of the loop, idle", "_ = await loop.run_in_executor(None, time.sleep, 0)"),
    _harmless(
        "process executor, idle",
        "import concurrent.futures as cf, multiprocessing as mp\n"
        "e = cf.ProcessPoolExecutor(1, mp_context=mp.get_context('fork')); f = e.submit(int); _ = f.result()",
        "e.shutdown()",
    ),
    _harmless(
        "process pool, idle",
        "import multiprocessing as mp\np = mp.get_context('fork').Pool(2); _ = p.map(abs, [1, 2])",
        "p.close(); p.join()",
    ),
    _harmless(
        "ThreadPool, idle",
        "from multiprocessing.pool import ThreadPool\np = ThreadPool(2); _ = p.map(abs, [1, 2])",
        "p.close(); p.join()",
    ),
    _harmless(
        "multiprocessing queue and its feeder",
        "import multiprocessing as mp\nq = mp.Queue(); q.put(1); _ = q.get()",
        "q.close(); q.join_thread()",
    ),
    _harmless(
        "multiprocessing manager",
        "import multiprocessing as mp\nm = mp.get_context('fork').Manager(); d = m.dict(); d['a'] = 1",
        "m.shutdown()",
    ),
    # logging
    _harmless(
        "QueueListener",
        "import logging, logging.handlers\n"
        "l = logging.handlers.QueueListener(queue.Queue(), logging.NullHandler()); l.start()",
        "l.stop()",
    ),
    _harmless(
        "QueueListener of worker processes",
        "import logging, logging.handlers, multiprocessing as mp\nq = mp.Queue()\n"
        "l = logging.handlers.QueueListener(q, logging.NullHandler()); l.start()",
        "l.stop(); q.close(); q.join_thread()",
    ),
    # what is over
    _harmless("thread that has ended", "def f(): pass\nt = threading.Thread(target=f); t.start(); t.join()"),
    _harmless("thread never started", "def f(): pass\nt = threading.Thread(target=f)"),
    _harmless("Timer cancelled", "t = threading.Timer(30, print); t.start(); t.cancel(); t.join()"),
    _harmless("sleep awaited in a cell", "await asyncio.sleep(.01)"),
    _harmless("to_thread awaited in a cell", "await asyncio.to_thread(int)"),
    _harmless(
        "task cancelled",
        "async def f(): await asyncio.sleep(50)\nt = asyncio.create_task(f()); await asyncio.sleep(0); t.cancel()",
    ),
    _harmless(
        "task that is done, with its result",
        "async def f(): return 3\nt = asyncio.create_task(f()); _ = await t",
    ),
    _harmless("call_later cancelled", "h = loop.call_later(30, print); h.cancel()"),
    _harmless(
        "PeriodicCallback stopped",
        "import tornado.ioloop\np = tornado.ioloop.PeriodicCallback(print, 5000); p.start(); p.stop()",
    ),
    _harmless(
        "asyncio objects that nobody waits for",
        "f = loop.create_future(); e = asyncio.Event(); q = asyncio.Queue()",
    ),
    _harmless(
        "asyncio process, ended", "p = await asyncio.create_subprocess_exec('true'); _ = await p.wait()"
    ),
    _harmless("process, ended", "import subprocess\n_ = subprocess.run(['true'], capture_output=True)"),
    _harmless(
        "signal handler put back",
        "import signal\nold = signal.signal(signal.SIGUSR1, print); signal.signal(signal.SIGUSR1, old) and None",
    ),
    _harmless(
        "callback of the garbage collector, removed",
        "import gc\ngc.callbacks.append(print); gc.callbacks.remove(print)",
    ),
    # what runs only when something else does
    _harmless(
        "finalizer of a living object",
        "import weakref\nclass A: pass\na = A(); _ = weakref.finalize(a, print)",
    ),
    _harmless("atexit handler", "import atexit\n_ = atexit.register(int)", "atexit.unregister(int)"),
    _harmless(
        "pending future of nobody, with a callback",
        "f = loop.create_future(); f.add_done_callback(print)",
        "f.cancel()",
    ),
    _harmless(
        "callbacks of IPython events",
        "ev = get_ipython().events; ev.register('post_run_cell', int)",
        "ev.unregister('post_run_cell', int)",
    ),
    _harmless(
        "locks, conditions, thread locals",
        "l = threading.RLock(); c = threading.Condition(); d = threading.local(); d.x = 1",
    ),
    _harmless(
        "faulthandler and tracemalloc", "import tracemalloc; tracemalloc.start()", "tracemalloc.stop()"
    ),
    _harmless(
        "warnings caught", "import warnings\nwith warnings.catch_warnings(): warnings.simplefilter('ignore')"
    ),
    # IPython and its front ends
    _harmless("bash cell, ended", "%%bash\necho 1\n"),
    _harmless("shell escape, ended", "!true"),
    _harmless("autoreload", "%load_ext autoreload\n%autoreload 2", "%autoreload 0"),
    _harmless(
        "completion by jedi",
        "ip = get_ipython(); ip.Completer.use_jedi = True\n_ = ip.complete('threading.T')",
    ),
    _harmless("timeit and history", "%timeit -n1 -r1 pass\n%history -l 1"),
    _harmless(
        "widgets with callbacks and a Play button",
        "import ipywidgets as W\nfrom IPython.display import display\n"
        "a = W.Play(); b = W.IntSlider(); l = W.jslink((a, 'value'), (b, 'value')); b.observe(print)\n"
        "display(W.interactive(lambda n: n, n=3), a, b)",
        needs=("ipywidgets",),
    ),
    _harmless(
        "comm with a handler",
        "from comm import create_comm\nc = create_comm('t'); c.on_msg(print)",
        "c.close()",
    ),
    _harmless(
        "debugpy imported and listening",
        "import debugpy\n_ = debugpy.listen(('127.0.0.1', 0), in_process_debug_adapter=True)",
        needs=("debugpy",),
        spoils=True,
    ),
    _harmless("debugger of the front end attached", "", request="debug", needs=("debugpy",), spoils=True),
    _harmless("subshell, idle", "", request="subshell"),
    _harmless("subshell running a cell, which passed the gate", "", request="busy subshell"),
    _harmless(
        "zmq socket without a handler", "import zmq\ns = zmq.Context.instance().socket(zmq.PULL)", "s.close()"
    ),
]

# Written when the rules stood, to break them: neither tuned on nor held out, and counted by themselves.
AFTERWARDS = [
    _user(
        "thread that trains a model",
        "import torch\nnet = torch.nn.Linear(200, 200); optimizer = torch.optim.SGD(net.parameters(), 1e-3)\n"
        "def train():\n    while not stop.is_set():\n        optimizer.zero_grad()\n"
        "        net(torch.ones(50, 200)).square().mean().backward(); optimizer.step()\n"
        "t = threading.Thread(target=train); t.start()",
        "t.join(); del net, optimizer",
        needs=("torch",),
    ),
    _user(
        "task that trains a model between two sleeps",
        "import torch\nnet = torch.nn.Linear(200, 200)\nasync def train():\n    while True:\n"
        "        net(torch.ones(50, 200)).sum().backward(); await asyncio.sleep(5)\n"
        "t = asyncio.create_task(train())",
        "t.cancel(); del net",
        needs=("torch",),
    ),
    _user("GUI event loop enabled by %gui", "%gui asyncio", "%gui"),
    _user(
        "tornado loop of the user's own in a thread",
        "import tornado.ioloop\nio = tornado.ioloop.IOLoop(make_current=False)\n"
        + _THREAD.format("io.start"),
        "io.add_callback(io.stop); t.join(); io.close()",
    ),
    _user(
        "Timer subclass that repeats a builtin",
        "class Repeat(threading.Timer):\n    def run(self):\n"
        "        while not self.finished.wait(self.interval): self.function()\nt = Repeat(30, int); t.start()",
        "t.cancel(); t.join()",
    ),
    _user(
        "portal of anyio with a task",
        "import anyio, anyio.from_thread\npm = anyio.from_thread.start_blocking_portal(); po = pm.__enter__()\n"
        "f = po.start_task_soon(anyio.sleep, 50)",
        "f.cancel(); pm.__exit__(None, None, None)",
        needs=("anyio",),
    ),
    _user(
        "coroutine of tornado's old kind",
        "import tornado.gen\n@tornado.gen.coroutine\n"
        "def f():\n    while not stop.is_set(): yield tornado.gen.sleep(.5)\n"
        "r = f()",
        "stop.set(); await r",
    ),
    _user(
        "task receiving from a zmq socket",
        "import zmq, zmq.asyncio\nz = zmq.asyncio.Context.instance().socket(zmq.PULL); z.bind_to_random_port('tcp://127.0.0.1')\n"
        "async def f(): await z.recv()\nt = asyncio.create_task(f())",
        "t.cancel(); await asyncio.sleep(0); z.close(0)",
    ),
    _user(
        "callback of a user's put on the control thread's loop",
        "io = get_ipython().kernel.control_thread.io_loop\nh = []\n"
        "io.add_callback(lambda: h.append(io.call_later(50, lambda: None)))\nwhile not h: time.sleep(.01)",
        "io.add_callback(lambda: io.remove_timeout(h[0]))",
    ),
    _user(
        "coroutine of a user's put on the control thread's loop",
        "entered = threading.Event()\nasync def f():\n    entered.set()\n    await asyncio.sleep(50)\n"
        "control = get_ipython().kernel.control_thread.io_loop.asyncio_loop\n"
        "c = asyncio.run_coroutine_threadsafe(f(), control); _ = entered.wait()",
        "c.cancel()",
    ),
    _user(
        "task of a coroutine made from a generator",
        "import types\n@types.coroutine\ndef f():\n    while not stop.is_set(): yield\nt = asyncio.ensure_future(f())",
    ),
    _user(
        "script of %run that leaves a thread",
        "open(folder + '/left.py', 'w').write('import threading\\ndef go(): stop.wait()\\n"
        "threading.Thread(target=go, daemon=True).start()')\n"
        "get_ipython().run_line_magic('run', '-i ' + folder + '/left.py')",
    ),
    _user(
        "call_later of a cached function",
        "h = loop.call_later(30, functools.lru_cache(lambda: None))",
        "h.cancel()",
    ),
    _user(
        "cached function called by the collector",
        "import gc\nnote = functools.lru_cache(lambda phase, info: None)\ngc.callbacks.append(note)",
        "gc.callbacks.remove(note)",
    ),
    _user(
        "partial as the handler of a signal",
        "import signal\nold = signal.signal(signal.SIGUSR1, functools.partial(lambda *a: None, 1))",
        "signal.signal(signal.SIGUSR1, old) and None",
    ),
    _user(
        "user function behind a library's decorator",
        "m = library('decolike', 'def plain(f):\\n    def call(*a):\\n        return f(*a)\\n    return call\\n')\n"
        "h = loop.call_later(30, m.plain(lambda: None))",
        "h.cancel()",
    ),
    _user(
        "thread whose target is the run of a context",
        "import contextvars\n"
        + _HELD
        + "t = threading.Thread(target=contextvars.copy_context().run, args=(held.acquire,)); t.start()",
        "held.release(); t.join()",
    ),
    _user(
        "process of the kernel's loop, running",
        "p = await asyncio.create_subprocess_exec('sleep', '30', stdout=asyncio.subprocess.PIPE)",
        "p.kill(); _ = await p.wait()",
    ),
    _user(
        "task in a subshell",
        "",
        request="task in subshell",
    ),
    _user(
        "task and timer on a loop patched to nest",
        "import nest_asyncio2; nest_asyncio2.apply()\nasync def f(): await asyncio.sleep(50)\n"
        "t = asyncio.create_task(f()); h = loop.call_later(30, print)",
        "t.cancel(); h.cancel()",
        needs=("nest_asyncio2",),
        spoils=True,
    ),
    _user(
        "work handed on from done callback to done callback",
        "import concurrent.futures as cf\ne = cf.ThreadPoolExecutor(2)\n"
        "def again(_=None):\n    if stop.is_set(): ended.set()\n"
        "    else: e.submit(int).add_done_callback(again)\nended = threading.Event(); again()",
        "stop.set(); ended.wait(); e.shutdown()",
    ),
    _harmless(
        "portal of anyio, closed",
        "import anyio, anyio.from_thread\nwith anyio.from_thread.start_blocking_portal() as po: _ = po.call(int)",
        needs=("anyio",),
    ),
    _harmless(
        "thread_map of tqdm",
        "from tqdm.contrib.concurrent import thread_map\n_ = thread_map(abs, range(4))",
        needs=("tqdm",),
    ),
    _harmless(
        "pool closed by its with",
        "import multiprocessing as mp\nwith mp.get_context('fork').Pool(1) as p: _ = p.map(abs, [1])",
    ),
    _harmless(
        "shared memory and its tracker",
        "from multiprocessing.shared_memory import SharedMemory\ns = SharedMemory(create=True, size=64)",
        "s.close(); s.unlink()",
    ),
    _harmless(
        "traceback to be dumped much later",
        "import faulthandler\nlog = open(folder + '/log', 'w'); faulthandler.dump_traceback_later(1000, file=log)",
        "faulthandler.cancel_dump_traceback_later(); log.close()",
    ),
    _harmless(
        "children ignored",
        "import signal\nold = signal.signal(signal.SIGWINCH, signal.SIG_IGN)",
        "signal.signal(signal.SIGWINCH, old) and None",
    ),
    _harmless(
        "output widget that captures",
        "import ipywidgets as W\no = W.Output()\n@o.capture()\ndef f(): print(1)\nf()",
        needs=("ipywidgets",),
    ),
    _harmless(
        "tensor sent to a queue",
        "import torch, torch.multiprocessing as mp\n"
        "q = mp.get_context('fork').Queue(); q.put(torch.ones(3)); _ = q.get()",
        "q.close(); q.join_thread()",
        needs=("torch",),
    ),
    _harmless(
        "imap_unordered, all taken",
        "from multiprocessing.pool import ThreadPool\np = ThreadPool(2); _ = list(p.imap_unordered(abs, range(9)))",
        "p.close(); p.join()",
    ),
    _harmless(
        "executor's map, all taken",
        "import concurrent.futures as cf\ne = cf.ThreadPoolExecutor(2); _ = list(e.map(abs, range(9)))",
        "e.shutdown()",
    ),
    _harmless(
        "client of http, used",
        "import http.server, urllib.request\n"
        "s = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n"
        "t = threading.Thread(target=s.handle_request); t.start()\n"
        "_ = urllib.request.urlopen('http://127.0.0.1:%d/' % s.server_port).read(); t.join(); s.server_close()",
    ),
    _harmless(
        "loop patched to nest",
        "import nest_asyncio2; nest_asyncio2.apply()\nloop.run_until_complete(asyncio.sleep(0))",
        needs=("nest_asyncio2",),
        spoils=True,
    ),
]

ALL = USER + HARMLESS + AFTERWARDS
# Drawn once, with random.Random(20261122).shuffle over the names in order, when no rule had been tried; some cases
# were given a truer name since.
HELD_OUT = frozenset(
    (
        "DataLoader with persistent workers",
        "IPython background job of an expression",
        "QueueListener of worker processes",
        "Timer cancelled",
        "Timer of a partial of print",
        "Timer of a tensor's method",
        "ZMQStream with a user callback",
        "add_reader of a user function",
        "anyio worker thread",
        "asyncio objects that nobody waits for",
        "atexit handler",
        "bash cell, ended",
        "call_at of a callable object",
        "callback of the garbage collector",
        "callback of the garbage collector, removed",
        "comm with a handler",
        "debugger of the front end attached",
        "default executor of the loop, idle",
        "default executor running a user function",
        "empty loop of the user's own in a thread",
        "executor running a user function",
        "finalizer of a living object",
        "interval timer with a handler",
        "locks, conditions, thread locals",
        "loop in a thread with a coroutine in it",
        "pending future of nobody, with a callback",
        "scheduler library that wakes by itself",
        "signal handler put back",
        "subshell, idle",
        "task cancelled",
        "task of a coroutine that sleeps",
        "task that drains an async generator",
        "task that is done, with its result",
        "thread in a long sleep",
        "thread in forward passes of torch, no frame of the user's",
        "thread parked in queue.get",
        "thread waiting on a multiprocessing connection",
        "timeit and history",
        "torch threads after a backward pass",
        "tornado call_later",
        "variables, functions, a half-run generator",
        "zmq socket without a handler",
    )
)
TUNING = frozenset(case.name for case in USER + HARMLESS) - HELD_OUT
