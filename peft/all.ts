// Every method of the library in one list: for tests, tables and commands. Each family's list is a file in lists/.
import type { Listed } from './listed.ts';
import { additive } from './lists/additive.ts';
import { hybrid } from './lists/hybrid.ts';
import { reparameterized } from './lists/reparameterized.ts';
import { selective } from './lists/selective.ts';

export const methods: readonly Listed[] = [...additive, ...selective, ...reparameterized, ...hybrid];
