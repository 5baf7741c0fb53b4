// dice.mjs - a small generator with a seed that is printed: a failure can be run again (WEIR_TEST_SEED).

export const SEED = Number(process.env.WEIR_TEST_SEED ?? Date.now() % 1_000_000);

/** Numbers from 0 up to 1. */
export function dice(seed = SEED) {
    let state = seed >>> 0;
    return () => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return state / 2 ** 32;
    };
}
