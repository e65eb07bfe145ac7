"""Sweeps: rates against plain diffrax, SciPy and a bare vmap; unequal lanes; kills, flips, processes; ten million.

    python -u benchmarks/sweeps.py [part …]       (rates mixed scales kills flips processes millions; all but the last)

Each ratio is of one run. A first call compiles and is not timed. The toy is the paper's: three networks, one data
point, scales from 1e-4 to 10.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate

jax.config.update("jax_enable_x64", True)
import gflow  # noqa: E402  (x64 first)

PROBLEM = gflow.Regression(X=[[1.0, 2.0]], y=[1.0])
KINDS = {
    "diagonal": gflow.initial.diagonal,
    "convolutional": gflow.initial.convolutional,
    "fully-connected": gflow.initial.fully_connected,
}


def make(kind, alpha, seed):
    return gflow.scale(KINDS[kind](jax.random.normal(jax.random.key(seed), (2,))), alpha), PROBLEM


def coefficients(network, problem):
    end = gflow.limit(network, problem)
    return {"coefficients": end.coefficients, "status": end.status, "steps": end.steps}


def path(network, problem):
    found = gflow.flow(network, problem, save=gflow.Steps(32))
    return {"coefficients": found.coefficients, "status": found.status, "steps": found.steps}


def grid(lanes):
    return {"kind": list(KINDS), "seed": np.arange(10), "alpha": np.logspace(-4, 1, lanes // 30)}


def seconds(call, repeats=1):
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times), found


def by_diffrax(network, problem):
    """What diffrax's FAQ advises: a steady-state event, no checkpoints, tight but not tighter."""
    weights, treedef = jax.tree.flatten(network)

    def field(t, v, args):
        return [
            -g
            for g in jax.grad(lambda v: 0.5 * jnp.sum((jax.tree.unflatten(treedef, v)(problem.X) - problem.y) ** 2))(v)
        ]

    def near(t, v, args, **_):
        return jnp.abs(jax.tree.unflatten(treedef, v)(problem.X) - problem.y).max() < 1e-9

    run = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        0.0,
        1e9,
        None,
        weights,
        max_steps=16384,
        throw=False,
        stepsize_controller=diffrax.PIDController(rtol=1e-9, atol=1e-12, pcoeff=0.4, icoeff=0.3),
        event=diffrax.Event(near),
        adjoint=diffrax.ForwardMode(),
    )
    return jax.tree.unflatten(treedef, [v[-1] for v in run.ys]).coefficients()


def by_scipy(network, problem):
    weights = network.weights
    sizes = np.cumsum([v.size for v in weights])[:-1]
    X, y = np.asarray(problem.X), np.asarray(problem.y)

    def unpacked(v):
        return [part.reshape(w.shape) for part, w in zip(np.split(v, sizes), weights, strict=True)]

    def residual(v):
        W, w = unpacked(v)
        return X @ (W * w if W.ndim == 1 else W @ w) - y

    def field(t, v):
        W, w = unpacked(v)
        g = X.T @ residual(v)
        return -np.concatenate([(g * w).ravel(), g * W] if W.ndim == 1 else [np.outer(g, w).ravel(), W.T @ g])

    def near(t, v):
        return np.abs(residual(v)).max() - 1e-9

    near.terminal = True
    found = scipy.integrate.solve_ivp(
        field, (0, 1e9), np.concatenate([np.ravel(v) for v in weights]), "LSODA", rtol=1e-9, atol=1e-12, events=near
    )
    W, w = unpacked(found.y[:, -1])
    return W * w if W.ndim == 1 else W @ w


def rates(lanes=99_990):
    """Limits and paths of the toy per second, of each network and of all three in one sweep; plain diffrax on some
    thousand lanes of each, SciPy on thirty."""
    print(f"{'verb, network':28s}{'lanes':>8s}{'sweep /s':>10s}{'bare vmap':>11s}{'diffrax':>9s}{'SciPy':>9s}  ratios")
    for name, verb, many in (("limits", coefficients, lanes), ("paths", path, lanes // 10)):
        theirs = {"diffrax": [], "SciPy": []}  # seconds a lane
        for kind in KINDS:
            axes = {"kind": [kind], "seed": np.arange(10), "alpha": np.logspace(-4, 1, many // 30)}
            count = 10 * (many // 30)
            swept, found = seconds(lambda verb=verb, axes=axes: gflow.sweep(make, verb, axes))
            alphas, seeds = (v.ravel() for v in np.meshgrid(axes["alpha"], axes["seed"]))

            def batch(function, step, kind=kind, alphas=alphas, seeds=seeds):
                one = jax.jit(jax.vmap(lambda a, s: function(*make(kind, a, s))))
                return step * seconds(lambda: one(jnp.asarray(alphas[::step]), jnp.asarray(seeds[::step])))[0]

            bare = batch(lambda n, p, verb=verb: verb(n, p)["coefficients"], 1)
            plain = batch(by_diffrax, -(-count // 1000))
            theirs["diffrax"].append(plain / count)
            line = f"{name + ', ' + kind:28s}{count:8d}{count / swept:10.0f}{count / bare:11.0f}{count / plain:9.0f}"
            if kind != "convolutional":
                some = np.random.default_rng(0).choice(count, 30, replace=False)
                starts = [make(kind, alphas[i], seeds[i]) for i in some]
                begun = time.perf_counter()
                ends = [by_scipy(*start) for start in starts]
                scipys = 30 / (time.perf_counter() - begun)
                theirs["SciPy"].append(1 / scipys)
                if verb is coefficients:
                    at = found.coefficients.isel(kind=0).values
                    error = max(
                        np.abs(at[seeds[i], i % (many // 30)] - e).max() for i, e in zip(some, ends, strict=True)
                    )
                    assert error < 1e-5, error
                line += f"{scipys:9.1f}  {count / swept / scipys:.0f} times SciPy,"
            else:
                line += f"{'':9s} "
            print(f"{line} {plain / swept:.1f} times diffrax, {bare / swept:.2f} times bare vmap", flush=True)
        axes = grid(many)
        count = 30 * len(axes["alpha"])
        own = seconds(lambda verb=verb, axes=axes: gflow.sweep(make, verb, axes))[0] / count
        ratios = ", ".join(f"{np.mean(lane) / own:.0f} times {rival}" for rival, lane in theirs.items())
        print(f"{name + ', all in one sweep':28s}{count:8d}{1 / own:10.0f}  {ratios}", flush=True)


def work(coordinates, _):
    """A loop whose length is given, and a little linear algebra in it."""

    def body(state):
        i, v = state
        return i + 1, jnp.tanh(v @ jnp.ones((8, 8)) / 8)

    n, v = jax.lax.while_loop(lambda s: s[0] < coordinates["length"], body, (0, jnp.ones(8)))
    return {"steps": n, "value": v.sum()}


def pair(length):
    return {"length": length}, None


def mixed(lanes=20_000, length=200):
    """One lane in a hundred costs a hundred times as much as the others."""

    def swept(lengths):
        return seconds(lambda: gflow.sweep(pair, work, {"length": lengths}, chunk=200))[0]

    equal, long = swept(np.full(lanes, length)), swept(np.full(lanes // 100, 100 * length))
    own = 0.99 * equal + long
    for name, lengths in (
        ("at one end", np.where(np.arange(lanes) >= 0.99 * lanes, 100 * length, length)),
        ("anywhere", np.where(np.random.default_rng(0).random(lanes) < 0.01, 100 * length, length)),
    ):
        took = swept(lengths)
        bare = jax.jit(jax.vmap(lambda n: work({"length": n}, None)["value"]))
        vmapped = seconds(lambda lengths=lengths, bare=bare: bare(jnp.asarray(lengths)))[0]
        print(
            f"1 % of lanes 100 times as costly, {name:10s}: {took:.2f} s, {took / own:.2f} of the lanes' own costs "
            f"({own:.2f} s); bare vmap {vmapped / own:.2f}",
            flush=True,
        )

    unforeseen(own, lanes, length)


def unforeseen(own, lanes, length):
    """The same where nothing but the lanes themselves tells which are costly."""

    def hidden(seed):
        return pair(jnp.where(jax.random.uniform(jax.random.key(seed)) < 0.01, 100 * length, length))

    seeds = np.arange(lanes)
    for name, chunk in (("default", None), ("4096", 4096)):
        took = seconds(lambda chunk=chunk: gflow.sweep(hidden, work, {"seed": seeds}, chunk=chunk))[0]
        print(
            f"known to lanes alone, chunks {name}: {took:.2f} s, {took / own:.2f} of the lanes' own costs", flush=True
        )
    bare = jax.jit(jax.vmap(lambda seed: work(*hidden(seed))["value"]))
    print(f"known to lanes alone, bare vmap: {seconds(lambda: bare(jnp.asarray(seeds)))[0] / own:.2f}", flush=True)


def scales():
    """128 scales of a fully-connected network: a batch waits for its slowest."""
    keys = jax.random.split(jax.random.key(0), 4)
    X, y = jax.random.normal(keys[0], (5, 20)) / 4, jax.random.normal(keys[1], (5,))
    W, w = jax.random.normal(keys[2], (20, 10)) / 3, jax.random.normal(keys[3], (10,)) / 3
    alphas, problem = jnp.logspace(-5, 1, 128), gflow.Regression(X, y)

    def start(alpha):
        return gflow.scale(gflow.FullyConnected((W, w)), alpha), problem

    def end(network, problem):
        return gflow.limit(network, problem).coefficients

    one = jax.jit(lambda a: end(*start(a)))
    alone = seconds(lambda: [one(a) for a in alphas], 3)[0]
    batch = jax.jit(jax.vmap(lambda a: end(*start(a))))
    vmapped = seconds(lambda: batch(alphas), 3)[0]
    swept = seconds(lambda: gflow.sweep(start, end, {"alpha": alphas}), 3)[0]
    print(
        f"128 scales of a fully-connected network: lane by lane {alone:.2f} s, bare vmap {vmapped:.2f} s, sweep "
        f"{swept:.2f} s",
        flush=True,
    )


def small(store, chunks=200):
    return gflow.sweep(
        lambda a: (a, None),
        lambda a, _: {"s": jnp.sin(a), "v": a * jnp.arange(3.0)},
        {"a": np.arange(2.0 * chunks)},
        chunk=2,
        store=store,
    )


def kills(count=100):
    """SIGKILL at random moments of a sweep of 200 chunks, again and again on one store until it is whole."""
    random, whole, worst, done, killed = np.random.default_rng(0), None, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole = small(f"{folder}/whole").load()
        for _ in range(count):
            store = pathlib.Path(folder, "killed")
            code = [sys.executable, __file__, "child", str(store)]
            child = subprocess.Popen(code, stdout=subprocess.PIPE)
            child.stdout.readline()
            time.sleep(random.uniform(0.0, 1.0))
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            killed += 1
            found = gflow.open_sweep(store) if (store / "sweep.json").exists() else None
            there = 0 if found is None else int((found.status == 1).sum()) // 2
            worst, done = max(worst, done - there), there
            if there == 200:
                assert gflow.open_sweep(store).load().identical(whole)
                for file in sorted(store.rglob("*"), reverse=True):
                    file.rmdir() if file.is_dir() else file.unlink()
                done = 0
        assert small(store).load().identical(whole)
    print(f"{killed} kills of a sweep of 200 chunks: bit-identical; chunks lost that were there before: {worst}")


def flips(count=1000):
    """Bits flipped and files cut in a small store."""
    random, seen = np.random.default_rng(0), 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        small(folder, 5)
        files = [file for file in pathlib.Path(folder).rglob("*") if file.is_file() and file.name != "lock"]
        for i in range(count):
            file = files[i % len(files)]
            content = file.read_bytes()
            at = random.integers(len(content))
            flipped = content[:at] + bytes([content[at] ^ (1 << random.integers(8))]) + content[at + 1 :]
            file.write_bytes(flipped if i % 2 else content[:at])
            try:
                seen += bool((gflow.open_sweep(folder).load().status != 1).any())
            except (ValueError, UserWarning):
                seen += 1
            file.write_bytes(content)
    print(f"{count} flips and cuts in {len(files)} files: {seen} seen")


def five_points(alpha, seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    X, y = jax.random.normal(keys[0], (5, 10)), jax.random.normal(keys[1], (5,))
    W, w = jax.random.normal(keys[2], (10, 10)) / 3, jax.random.normal(keys[3], (10,)) / 3
    return gflow.scale(gflow.FullyConnected((W, w)), alpha), gflow.Regression(X, y)


def processes(lanes=6_000):
    """One worker against two, each warm: fully-connected limits on five points, by weights. Of the toy so many take a
    twentieth of a second."""
    axes = {"alpha": np.logspace(-4, 1, lanes // 100), "seed": np.arange(100)}
    took = {}
    for workers in (1, 2):
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            # The better of two: a pool starts its second worker when the first is busy, and while that one loads and
            # compiles the first may do all of a call.
            took[workers] = seconds(lambda pool=pool: gflow.sweep(five_points, coefficients, axes, executor=pool), 2)[0]
    print(f"{lanes} limits: one process {took[1]:.2f} s, two {took[2]:.2f} s: {took[1] / took[2]:.2f} times")


def millions(lanes=10_000_000):
    """Limits of the diagonal toy into a store, after as many as fill memory with programs alone."""
    axes = {"kind": ["diagonal"], "seed": np.arange(100), "alpha": np.logspace(-4, 1, lanes // 100)}
    with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as folder:
        gflow.sweep(make, coefficients, axes | {"alpha": axes["alpha"][:1000]}, store=few)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        begun = time.perf_counter()
        found = gflow.sweep(make, coefficients, axes, store=folder)
        took = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        size = sum(file.stat().st_size for file in pathlib.Path(folder).rglob("*") if file.is_file()) / 1e9
        good = float((found.status == 0).mean())
    print(
        f"{lanes} limits into a store of {size:.2f} GB: {took:.0f} s, peak memory {peak:.2f} GB ({before:.2f} with "
        f"100,000 lanes), converged {good:.4f}"
    )


def main():
    if sys.argv[1:2] == ["child"]:
        print("ready", flush=True)
        small(sys.argv[2])
        return
    parts = {f.__name__: f for f in (rates, mixed, scales, kills, flips, processes, millions)}
    for name in sys.argv[1:] or list(parts)[:-1]:
        name, _, size = name.partition("=")
        parts[name](*([int(size)] if size else []))


if __name__ == "__main__":
    main()
