// Where the hub is, who asks, and where its files are kept: the environment variables that Hugging Face's own library reads.
import { homedir } from 'node:os';
import { join } from 'node:path';

export interface HubSettings {
  /** HF_ENDPOINT; https://huggingface.co without it. */
  readonly endpoint: string;
  /** HF_TOKEN. Sent to the endpoint only. */
  readonly token: string | null;
  /** HF_HUB_CACHE, else hub in HF_HOME, else hub in the user's huggingface cache. */
  readonly cache: string;
  /** HF_HUB_OFFLINE: nothing is asked of the network. */
  readonly offline: boolean;
}

export function hubSettings(env: Readonly<Record<string, string | undefined>> = process.env): HubSettings {
  const given = (name: string): string | undefined => env[name]?.trim() || undefined;
  const home = (path: string): string => (path === '~' || path.startsWith('~/') ? join(homedir(), path.slice(1)) : path);
  const endpoint = (given('HF_ENDPOINT') ?? 'https://huggingface.co').replace(/\/+$/, '');
  if (!/^https?:$/.test(URL.canParse(endpoint) ? new URL(endpoint).protocol : ''))
    throw new Error(`HF_ENDPOINT is ${JSON.stringify(endpoint)}; it must be an address such as https://huggingface.co`);
  const base = given('HF_HOME') ?? join(given('XDG_CACHE_HOME') ?? join(homedir(), '.cache'), 'huggingface');
  return {
    endpoint,
    token: given('HF_TOKEN') ?? null,
    cache: home(given('HF_HUB_CACHE') ?? given('HUGGINGFACE_HUB_CACHE') ?? join(base, 'hub')),
    offline: /^(1|on|yes|true)$/i.test(given('HF_HUB_OFFLINE') ?? ''),
  };
}
