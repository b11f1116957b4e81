// A process that judges all pairs of one first method at a time, as allPairs.ts asks for them.
import { float64 } from '../../core/engines/float64.ts';
import { methods } from '../../peft/all.ts';
import type { Unit } from './allPairs.ts';
import { networks } from './models.ts';
import { fitting, judgeAllOn, type Tally } from './pairLaws.ts';

async function tallyOf({ net: name, first, seed }: Unit): Promise<Tally> {
  const net = networks(seed).find((n) => n.name === name)!;
  const all = fitting(methods, net);
  await using engine = float64(); // a new one each time: what it keeps of plans and kernels would grow for an hour
  return await judgeAllOn(all.find((m) => m.name === first)!, all, net, seed, engine);
}

process.on('message', (unit: Unit) => {
  tallyOf(unit).then(
    (tally) => process.send!(tally),
    (e: unknown) =>
      process.send!({
        pairs: 0,
        held: 0,
        merged: 0,
        refused: [],
        broken: [`${unit.first} on ${unit.net}: ${e instanceof Error ? e.stack : e}`],
      }),
  );
});
