#!/usr/bin/env node
// The command `tinypeft`: runs the TypeScript beside it.
import { register } from 'tsx/esm/api';

register();
await import('./tinypeft.ts');
