// wait.mjs - the one place where tests wait: for a condition, with a bound, never for a guess of how long something takes.

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** The first true value of `condition()` (which may be async); throws with `what` when there is none in time. */
export async function until(what, condition, { within_ms = 30_000, every_ms = 5 } = {}) {
    const end = performance.now() + within_ms;
    for (;;) {
        const value = await condition();
        if (value) return value;
        if (performance.now() > end) throw new Error(`not within ${within_ms} ms: ${what}`);
        await pause(every_ms);
    }
}

/** `act(n)` gives how long it took in ms; again until once it was less than the bound. A rule that is broken is broken each time, and no busy machine is that slow each time. */
export async function inTime(bound_ms, act, attempts = 5) {
    const times = [];
    while (times.length < attempts) {
        times.push(await act(times.length));
        if (times.at(-1) < bound_ms) return;
    }
    throw new Error(`not once in less than ${bound_ms} ms: ${times.map(Math.round)}`);
}

/** Rejects when `promise` has not settled in time: a hanging answer fails its own test, not the run. */
export async function bounded(what, within_ms, promise) {
    let timer;
    const late = new Promise((_, fail) => {
        timer = setTimeout(() => fail(new Error(`not within ${within_ms} ms: ${what}`)), within_ms);
    });
    try {
        return await Promise.race([promise, late]);
    } finally {
        clearTimeout(timer);
    }
}

/** Lets `ms` pass where the delay itself is the stimulus: a slow upstream, a client that stalls. Not for waiting on Weir. */
export const elapse = pause;
