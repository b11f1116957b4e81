// A wrong command line or configuration, as opposed to what goes wrong while a command runs.

export class UsageError extends Error {
  override readonly name = 'UsageError';
}
