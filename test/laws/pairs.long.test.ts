// Every ordered pair of methods on every network, in as many processes as there are cores. Prints how many ran, merged and were refused.
import { expect, it } from 'vitest';
import { composing } from '../../cli/methodComposes.ts';
import { methods } from '../../peft/all.ts';
import { allPairs } from './allPairs.ts';
import { networks } from './models.ts';
import { fitting } from './pairLaws.ts';

const seed = Number(process.env.TINYPEFT_SEED ?? 1);
const HOURS = 3_600_000;

it(
  `all ordered pairs of ${methods.length} methods, seed ${seed}`,
  async () => {
    const began = performance.now();
    const minutes = (): number => (performance.now() - began) / 60_000;
    const nets = networks(seed);
    let said = 0;
    const tallies = await allPairs(methods, nets, seed, (done, all, broken) => {
      for (const b of broken) console.log(`broken: ${b}`);
      const part = Math.floor((20 * done) / all);
      if (part === said) return;
      said = part;
      console.log(
        `pairs: ${done} of ${all}, ${minutes().toFixed(1)} minutes, about ${((minutes() * (all - done)) / done).toFixed(1)} more`,
      );
    });
    const total = { pairs: 0, broken: 0 };
    for (const [net, { pairs, held, merged, refused, idle, broken }] of tallies) {
      total.pairs += pairs;
      total.broken += broken.length;
      console.log(
        `${net}: ${pairs} pairs ran: ${held} hold (${merged} of them merged), ${refused.length} refused, ${idle.length} with nothing to train on, ${broken.length} broken${refused.length > 0 ? `\n  refused: ${refused.join(', ')}` : ''}${idle.length > 0 ? `\n  nothing to train on: ${idle.join(', ')}` : ''}`,
      );
    }
    console.log(`all pairs: ${total.pairs} ran, ${total.broken} broken, ${minutes().toFixed(1)} minutes, seed ${seed}`);
    expect([...tallies.values()].flatMap((t) => t.broken)).toEqual([]);
    expect(total.pairs).toBe(nets.reduce((n, net) => n + fitting(methods, net).length ** 2, 0));
    for (const { pairs, held } of tallies.values()) expect(held).toBeGreaterThan(pairs / 2);
    // What `npm run methods` says in its column `composable`, in both directions.
    const [refused, composes] = [[...tallies.values()].flatMap((t) => t.refused.map((r) => r.split(' → '))), composing()];
    const merges = (name: string): boolean =>
      methods
        .find((m) => m.name === name)!
        .standard()
        .parts.every((p) => p.method.mergeable);
    for (const m of methods) {
      const beneath = refused.flatMap(([first, second]) => (second === m.name ? [first!] : []));
      const says = await composes(m);
      if (says === 'any') expect(beneath, m.name).toEqual([]);
      else expect(beneath.length, `${m.name} says ${says}`).toBeGreaterThan(0);
      if (says === 'mergeable') expect(beneath.filter(merges), m.name).toEqual([]);
    }
  },
  4 * HOURS,
);
