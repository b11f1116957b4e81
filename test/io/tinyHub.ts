// One small repository on a hub of this machine, and how tests ask it.
import { expect } from 'vitest';
import { rng } from '../../core/rng.ts';
import type { HubOptions as Options } from '../../io/hub/repository.ts';
import { type Hub, type HubFile, type HubOptions, hub } from './hubServer.ts';

export const ID = 'org/tiny-model';
export const text = (s: string): HubFile => ({ bytes: new TextEncoder().encode(s) });
export const LARGE: HubFile = { bytes: Uint8Array.from(rng(1).uniform(40_000), (v) => v * 256), large: true };
export const FILES = new Map<string, HubFile>([
  ['config.json', text('{"model_type": "llama"}')],
  ['model.safetensors', LARGE],
  ['onnx/notes.txt', text('in a folder')],
  ['empty.txt', text('')],
]);

export const started = (more: Partial<HubOptions> = {}): Promise<Hub> => hub({ id: ID, files: FILES, ...more });
export const options = (h: Hub, cache: string, more: Options = {}): Options => ({
  ...{ endpoint: h.endpoint, cache, token: null, offline: false, progress: null, pause: 1 },
  notice: (t: string) => expect.unreachable(t),
  ...more,
});
