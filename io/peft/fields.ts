// Fields that several methods' configurations share, each with what the library writes when nobody says otherwise.
import { z } from 'zod';
import { count, flag, orNull, pattern, real, share, whole } from './config.ts';
import { field } from './format.ts';

const names = z.array(z.string());
export const TARGETS = {
  target_modules: field(orNull(z.union([z.string(), names])), null),
  layers_to_transform: field(orNull(z.union([whole, z.array(whole)])), null),
  layers_pattern: field(orNull(z.union([z.string(), names])), null),
} as const;
export const EXCLUDE = { exclude_modules: field(orNull(z.union([z.string(), names])), null) } as const;
export const FAN = { fan_in_fan_out: field(flag.optional(), false) } as const;
export const BIAS = { bias: field(z.string().optional(), 'none') } as const;
export const INIT = { init_weights: field(z.union([flag, z.string()]).nullable().optional(), true) } as const;
export const dropout = field(share.optional(), 0, true);
export const whole0 = (otherwise: number) => field(whole.optional(), otherwise);
export const count1 = (otherwise: number) => field(count.optional(), otherwise);
export const number = (otherwise: number, isReal = true) => field(real.optional(), otherwise, isReal);
export const yes = (otherwise: boolean) => field(flag.optional(), otherwise);
export const patterns = <T extends z.ZodType>(t: T) => field(pattern(t), {});
/** Fields of variants that this library does not have: null, or an object that `refused` turns down. */
export const variant = field(z.unknown().optional(), null);
