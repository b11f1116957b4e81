// What a program does when nobody reads it any more, as in `tinypeft methods --json | head -1`.

/**
 * Standard output unread: there is nothing left to do, and nothing to complain about. The error output unread: the work goes on without it, for
 * what it makes may be files.
 */
export function quietWhenUnread(): void {
  const unless = (act: () => void) => (e: NodeJS.ErrnoException) => {
    if (e.code !== 'EPIPE') throw e;
    act();
  };
  process.stdout.on(
    'error',
    unless(() => process.exit()),
  );
  process.stderr.on(
    'error',
    unless(() => {}),
  );
}
