// adapter_config.json: what every configuration has, read through a schema; errors name the key, what it should be, and what to do.
import { z } from 'zod';
import { isJsonObject, type Json } from '../adapterJson.ts';
import { some } from '../files.ts';
import { parsePython } from './pythonJson.ts';

const text = z.string();
const names = z.array(z.string());
export const whole = z.int();
export const count = z.int().min(1);
export const real = z.number();
export const share = z.number().min(0).max(1);
export const flag = z.boolean();
export const orNull = <T extends z.ZodType>(t: T): z.ZodOptional<z.ZodNullable<T>> => t.nullable().optional();
/** A regular expression for modules → a number. */
export const pattern = <T extends z.ZodType>(t: T): z.ZodOptional<z.ZodNullable<z.ZodRecord<z.ZodString, T>>> =>
  orNull(z.record(z.string(), t));

export const TASKS = ['SEQ_CLS', 'SEQ_2_SEQ_LM', 'CAUSAL_LM', 'TOKEN_CLS', 'QUESTION_ANS', 'FEATURE_EXTRACTION'] as const;
export type Task = (typeof TASKS)[number];

/** Fields of every configuration. */
export const BASE_FIELDS = {
  peft_type: text,
  task_type: orNull(z.enum(TASKS)),
  auto_mapping: orNull(z.record(z.string(), z.unknown())),
  peft_version: orNull(text),
  base_model_name_or_path: orNull(text),
  revision: orNull(text),
  inference_mode: flag.optional(),
  modules_to_save: orNull(names),
};
/** Fields of methods that attach to modules. Not every method writes all of them. */
export const TARGET_FIELDS = {
  target_modules: orNull(z.union([text, names])),
  exclude_modules: orNull(z.union([text, names])),
  layers_to_transform: orNull(z.union([whole, z.array(whole)])),
  layers_pattern: orNull(z.union([text, names])),
  fan_in_fan_out: flag.optional(),
  bias: text.optional(),
};
const common = z.looseObject({ ...BASE_FIELDS, ...TARGET_FIELDS });
export type Common = z.infer<typeof common>;

export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/** A configuration file as it was read: its fields, and how each number was written. */
export interface ConfigFile {
  readonly file: string;
  readonly fields: { readonly [key: string]: Json };
  readonly written: ReadonlyMap<string, string>;
  readonly peftType: string;
}
export function parseConfig(source: string, file: string): ConfigFile {
  const { value, written } = parsePython(source, file);
  if (!isJsonObject(value)) throw new ConfigError(`${file}: is not a JSON object; adapter_config.json is one, with the key peft_type`);
  const { peft_type: peftType } = value;
  if (typeof peftType !== 'string')
    throw new ConfigError(
      `${file}: peft_type is ${peftType === undefined ? 'missing' : JSON.stringify(peftType)}; it must name the method, such as "LORA". Is this the configuration of an adapter of Hugging Face PEFT?`,
    );
  return { file, fields: value, written, peftType };
}

/** Fields through a schema. Wrong types throw; keys that the schema does not have are answered as warnings. */
export function check<T extends z.ZodRawShape>(
  { file, fields, peftType }: ConfigFile,
  shape: T,
): { value: z.infer<z.ZodObject<T>> & Common; warnings: string[] } {
  const known = new Set(Object.keys({ ...BASE_FIELDS, ...shape }));
  const unknown = Object.keys(fields).filter((k) => !known.has(k));
  const answer = z.looseObject({ ...BASE_FIELDS, ...shape }).safeParse(fields);
  if (!answer.success) {
    const lines = answer.error.issues.slice(0, 8).map((i) => `${i.path.join('.')} is ${shown(at(fields, i.path))}: ${i.message}`);
    throw new ConfigError(
      `${file}: not a configuration of ${peftType}:\n  ${lines.join('\n  ')}\nCorrect the field, or have the library that made the file write it again`,
    );
  }
  return {
    value: answer.data as unknown as z.infer<z.ZodObject<T>> & Common, // the seam: the schema has checked both halves
    warnings:
      unknown.length === 0
        ? []
        : [
            `${file}: ${some(unknown)} ${unknown.length === 1 ? 'is no field' : 'are no fields'} of ${peftType} that this library knows; ignored, and written again on saving. The file may come from a newer version`,
          ],
  };
}
const at = (v: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>(
    (o, k) => (typeof o === 'object' && o !== null && Object.hasOwn(o, k) ? (o as Record<PropertyKey, unknown>)[k] : undefined),
    v,
  );
const shown = (v: unknown): string => {
  const s = v === undefined ? 'missing' : JSON.stringify(v);
  return s.length > 60 ? `${s.slice(0, 60)}…` : s;
};
