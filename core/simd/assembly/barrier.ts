// All threads wait for the last one. A short spin first: steps are often over in microseconds.

/** control: [arrived, generation]. Compiled away where there are no threads. */
export function barrier(control: usize, threads: i32): void {
  if (!ASC_FEATURE_THREADS) return;
  const generation = atomic.load<i32>(control, 4);
  if (atomic.add<i32>(control, 1) == threads - 1) {
    atomic.store<i32>(control, 0);
    atomic.store<i32>(control, generation + 1, 4);
    atomic.notify(control + 4, threads);
    return;
  }
  for (let spin = 0; spin < 2000; spin++) if (atomic.load<i32>(control, 4) != generation) return;
  let seconds = 0;
  while (atomic.load<i32>(control, 4) == generation)
    if (atomic.wait<i32>(control + 4, generation, 1000000000) == 2 && ++seconds > 60) unreachable(); // a thread is gone: fail, do not hang
}
